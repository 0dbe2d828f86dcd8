"""Every parser that reads what others wrote, by name."""

from fuzzing import detection_data, pretraining_data

PARSERS = {**detection_data.PARSERS, **pretraining_data.PARSERS}
