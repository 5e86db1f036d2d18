"""What the training loop calls.

config         TrainConfig: every setting of a run; presets: sizes of a run from one dial
setup          how a run starts: new, from another model, or from where a run was stopped
objective      the loss as a function of tokens and parameters, compiled or not
optimizer      AdamW, Muon and the learning rate
distributed    the processes of a run, and how a model is spread over them
evaluation     bits per byte of the held-out text, and a sample
checkpoints    the state of a run on disk
interruption   Ctrl-C
speed          floating point operations: per token, and of the machine; memory: memory that is kept
metrics        progress and log; plot: loss.png; report: what is printed first and last
"""
