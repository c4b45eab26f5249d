"""scripts/predict: densenet-predict, for the service of this checkout."""

from densenet_client import predict

from densenet.service import lookup

main = predict.command(lookup.address_for_client)
