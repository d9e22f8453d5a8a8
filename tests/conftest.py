"""One torch thread for each test process: the tensors are tiny, and several processes share the cores."""

import torch

torch.set_num_threads(1)
