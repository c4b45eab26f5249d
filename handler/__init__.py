"""The way of an image through the service, one module a step: read, decode, transform, score, rank,
reply; and, where it is asked why, explain before the reply."""

# The parts of the network's file. The model card names them, so that an older export is known by it.
PARTS = ("trunk", "head")
# The program of the process that decodes, by which it is known among others.
DECODER_PROGRAM = "handler.decoder_process"
