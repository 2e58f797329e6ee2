"""A deployment on more than one process, as people run one: what breaks there ends as it does on one machine."""
