"""The service's request handler, one module per step: read, decode, transform, score, rank, explain, reply."""

# The parts of the network's file. The model card lists them, which identifies archives of an older export.
PARTS = ("trunk", "head")
# The module that the decoder process runs; it identifies the process in a list of processes.
DECODER_PROGRAM = "handler.decoder_process"
