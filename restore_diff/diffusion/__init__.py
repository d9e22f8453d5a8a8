"""The mathematics of diffusion: noise levels, what a prediction means, the loss, the samplers."""
