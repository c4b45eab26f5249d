"""scripts/predict: densenet-predict, for the service of this checkout."""

from densenet_client import predict
from densenet_client.predict import AsCsv, AsJson, Files, MinProbability, TopK
from densenet_client.terminal import CaOption, KeyFileOption, Parallel, Timeout, TokenOption

from densenet.service import lookup
from densenet.service.lookup import ClientUrl, PortOption


def main(
    files: Files,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    top_k: TopK = None,
    min_probability: MinProbability = None,
    url: ClientUrl = None,
    port: PortOption = None,
    parallel: Parallel = 4,
    token: TokenOption = None,
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    timeout: Timeout = 60,
) -> None:
    """Classify images with the running service. Exits 1 if any of them was rejected."""
    url, key_file, ca = lookup.address_for_client(port, url, token, key_file, ca)
    predict.main(
        files,
        as_json,
        as_csv,
        top_k,
        min_probability,
        url=url,
        parallel=parallel,
        token=token,
        key_file=key_file,
        ca=ca,
        timeout=timeout,
    )
