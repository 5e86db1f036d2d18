"""What the loop in train.py calls.

presets        sizes of a run from one dial
optimizer      AdamW and the learning rate
team           the processes of a run, and how a model is spread over them
evaluation     bits per byte of the text that is held out
checkpoints    the state of a run on disk
interruption   Ctrl-C
speed          floating point operations: of a token, and of the machine
journal        progress and log; plot: loss.png
"""
