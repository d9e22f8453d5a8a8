"""Addressed randomness: a draw depends on the address it is made for, never on what was drawn before."""

import hashlib

import torch


def mix(seed: int, *address: int | str) -> int:
    """Hash a seed and an address, e.g. `mix(seed, "augment", 17)`, to 63 bits; near addresses become unrelated."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in address)])
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *address: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator that belongs to one address. The same address on the same kind of device gives the same numbers."""
    return torch.Generator(device).manual_seed(mix(seed, *address))
