"""Tensors joined as they come."""

import pytest
import torch

from samtune.joining import joined


@pytest.mark.parametrize("lengths", [[3], [2, 0, 1, 4], [1] * 10])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_pieces_are_joined_in_their_order_as_by_torch(lengths, dtype):
    pieces = [torch.randn(length, 4, 5).to(dtype) for length in lengths]
    result = joined(iter(pieces), most=20)
    assert result.dtype == dtype
    assert torch.equal(result, torch.cat(pieces))


def test_of_no_pieces_nothing_comes():
    assert len(joined([], most=20)) == 0
