"""Port blocks are exclusive."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from deepseek_localcluster.ports import BLOCK, FIRST, LAST, claim_block


def test_ten_claims_give_ten_different_blocks_and_a_released_one_comes_back() -> None:
    """In one process or in several: the kernel keeps the book."""
    blocks = [claim_block() for _ in range(10)]
    try:
        bases = [block.base for block in blocks]
        assert len(set(bases)) == 10
        assert all(FIRST <= base < LAST and base % BLOCK == 0 for base in bases)
        other = subprocess.run(
            [sys.executable, "-c", "from deepseek_localcluster.ports import claim_block; print(claim_block().base)"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(other.stdout) not in bases
        blocks[3].release()
        again = claim_block()
        blocks.append(again)
        assert again.base <= max(bases)
    finally:
        for block in blocks:
            block.release()


def test_a_block_with_a_foreign_listener_is_passed_over() -> None:
    """Whoever listens there knows nothing of claims."""
    block = claim_block()
    with socket.create_server(("127.0.0.1", block[3])):
        block.release()
        other = claim_block()
        assert other.base != block.base
        other.release()


def test_an_offset_outside_the_block_is_refused() -> None:
    """0 to 99."""
    block = claim_block()
    block.release()
    with pytest.raises(IndexError, match="offsets 0 to 99, was 100"):
        block[100]
