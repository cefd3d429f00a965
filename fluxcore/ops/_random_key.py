"""Keys of the random numbers, the same in every process."""

from hashlib import blake2b


def random_key(name: str, seed: int) -> int:
    """Philox's key for a tensor's name and a seed, within [0, 2^64).

    A hash that is not salted (BLAKE2b with the seed as its key): `hash(name)` differs from process to process, and
    replicas that prune by it drift apart.
    """
    return int.from_bytes(blake2b(name.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest(), "little")
