"""One thread a process: the tests' tensors are tiny, and several test processes share the cores."""

import torch

torch.set_num_threads(1)
