"""The Llama. Read in this order: config, rms_norm, rotary, attention, swiglu, block, kv_cache,
llama, loss.
"""
