"""Parts of `cellplm_throughput.py`: model, clock, products, input layer, attention, memory."""
