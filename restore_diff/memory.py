"""What memory there is, and how it shows that there was none left."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or its accelerator had no memory left; on the CPU, torch raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU; None where it is not known or not scarce."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
