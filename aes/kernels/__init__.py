"""How one pass through the model is computed: forward, experts, attention, logits.

Torch and transformers alone, with plain arguments: settings, data and runs are known downstream.
"""
