"""The systems that the service is compared with, each set up as its documentation recommends."""
