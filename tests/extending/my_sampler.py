"""A sampler of one's own: Euler's method in sigma, ten lines."""

from restore_diff import SAMPLERS
from restore_diff.diffusion.samplers import LadderSampler


class Euler(LadderSampler):
    def solver(self, denoise, noise):
        def move(step, level, following, x_t, found):
            return following.signal * found.clean + following.noise * found.epsilon

        return move


SAMPLERS["euler"] = Euler
