triangularity = 0.3
