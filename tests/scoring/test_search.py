import torch

from projects.bioscan_clip.scoring import search
from projects.bioscan_clip.tasks import nearest_keys


def test_equals_full_sort(monkeypatch):
    monkeypatch.setattr(search, "QUERIES_AT_ONCE", 7)  # several blocks, the last one short
    monkeypatch.setattr(search, "KEYS_AT_ONCE", 3)  # fewer than neighbours
    torch.manual_seed(0)
    queries, keys = 5 * torch.randn(40, 6), 3 * torch.randn(25, 6)
    similarities, indices = nearest_keys(queries, keys, k=4)
    cosine = torch.cosine_similarity(queries[:, None], keys[None], dim=2)
    expected = cosine.sort(dim=1, descending=True)
    assert indices.equal(expected.indices[:, :4])
    torch.testing.assert_close(similarities, expected.values[:, :4])
