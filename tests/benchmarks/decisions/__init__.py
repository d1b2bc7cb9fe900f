"""What the decisions of a learning-rate callback are worth: `python -m tests.benchmarks.decisions`.

Small networks are trained on real data, from six first rates, by each method that is compared. The
training runs of one network are vmapped; the networks, the losses and the optimizers are Keras's
own (`stateless_call`, `stateless_apply`), and the real callbacks decide.
"""
