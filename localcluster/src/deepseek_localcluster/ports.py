"""Port blocks that never collide: neither between clusters nor with outgoing connections.

A block is 100 TCP ports from a multiple of 100, below the range the kernel takes outgoing ports from. It is claimed by binding an
abstract Unix socket named after it: such a name is as machine-wide as the ports themselves, and the kernel frees it when the last
process holding it dies.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

BLOCK = 100
FIRST = 20_000
LAST = 32_700


@dataclass
class PortBlock:
    """The ports ``base`` … ``base + 99`` of 127.0.0.1, ours until :meth:`release` or the end of every process that holds ``claim``."""

    base: int
    claim: socket.socket

    def __getitem__(self, offset: int) -> int:
        if not 0 <= offset < BLOCK:
            raise IndexError(f"a block has the offsets 0 to {BLOCK - 1}, was {offset}")
        return self.base + offset

    def release(self) -> None:
        """Let others claim the block."""
        self.claim.close()


def claim_block(probed: int = 12) -> PortBlock:
    """A free block, its first ``probed`` ports checked to be free of foreign listeners. ``RuntimeError`` when there is none."""
    for base in range(FIRST, min(LAST, _first_outgoing_port() - BLOCK), BLOCK):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0deepseek-localcluster-ports-{base}")
        except OSError:
            claim.close()
            continue
        if all(_is_free(base + offset) for offset in range(probed)):
            return PortBlock(base, claim)
        claim.close()
    raise RuntimeError(
        f"no free block of {BLOCK} ports between {FIRST} and {LAST}: are old clusters running? `deepseek-localcluster status` lists them"
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # A connection in TIME_WAIT does not hold a port for a listener that sets SO_REUSEADDR, as Go and Ray do.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))  # noqa: S104 - nothing listens: this asks whether any address has the port
        except OSError:
            return False
    return True


def _first_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:
        return 32_768
