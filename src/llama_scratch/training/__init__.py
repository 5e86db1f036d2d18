"""What the loop in train.py calls.

presets        sizes of a run from one dial
starting       from nothing, from another model, or from where a run was stopped
objective      the loss as a function of tokens and parameters, compiled or not
optimizer      AdamW and the learning rate
team           the processes of a run, and how a model is spread over them
evaluation     bits per byte of the text that is held out, and a sample
checkpoints    the state of a run on disk
interruption   Ctrl-C
speed          floating point operations: of a token, and of the machine
journal        progress and log; plot: loss.png; report: what is said first and last
"""
