"""Metrics and grades -> what a person looks at: a plot, a closing card, a page of samples.

Import the module that is needed; matplotlib and wandb are loaded by the functions that use them.
"""
