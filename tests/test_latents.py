"""Reconstruction as a signal: SSIM against scikit-image, closed forms, the combination."""

import numpy as np
import pytest
import torch
from scipy.stats import combine_pvalues

from tanl.beyond.latents import Resampling, combined, reconstruct, ssim


def images(n=3, side=32, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def smooth(n=3, side=32):
    x = torch.linspace(0, 1, side)
    return (0.5 + 0.4 * torch.sin(3 * x[None, :] + 2 * x[:, None])).expand(n, 3, side, side).contiguous()


def test_ssim_is_scikit_image_s():
    metrics = pytest.importorskip("skimage.metrics")
    a, b = images(), (images() + 0.2 * images(seed=1)).clamp(0, 1)
    expected = [
        metrics.structural_similarity(
            x.double().numpy(), y.double().numpy(), channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for x, y in zip(a, b, strict=True)
    ]  # fmt: skip
    np.testing.assert_allclose(ssim(a, b).numpy(), expected, atol=1e-5)


def test_what_comes_back_whole_has_no_error():
    found = reconstruct(images(), lambda x: x, lambda x: x)
    assert torch.equal(found.mse, torch.zeros(3)) and found.latent_share == 1
    torch.testing.assert_close(found.ssim, torch.ones(3))


def test_a_constant_shift_by_its_formula():
    found = reconstruct(
        torch.full((1, 1, 16, 16), 0.5), lambda x: x[:, :, :4, :4], lambda z: torch.full((1, 1, 16, 16), 0.7)
    )
    assert found.mse.item() == pytest.approx(0.04, abs=1e-6)
    assert found.ssim.item() == pytest.approx((2 * 0.35 + 1e-4) / (0.25 + 0.49 + 1e-4), abs=1e-6)
    assert found.latent_share == 1 / 16


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_smooth_images_survive_downsizing_and_noise_does_not(factor):
    codec = Resampling(factor)
    kept, lost = (reconstruct(each, codec.encode, codec.decode) for each in (smooth(), images()))
    assert kept.latent_share == 1 / factor**2
    assert bool((kept.mse < 1e-3).all()) and bool((lost.mse > 0.05).all())
    assert bool((kept.ssim > 0.95).all()) and bool((lost.ssim < 0.7).all())


def test_values_beyond_white_are_cut():
    found = reconstruct(torch.ones(1, 1, 16, 16), lambda x: x, lambda x: x + 3)
    assert found.mse.item() == 0


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(3, 32, 32), r"float32 \[B, C, H, W\]"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.float64), "not torch.float64"),
        (torch.zeros(1, 3, 10, 32), "sides of at least 11"),
        (torch.full((1, 3, 32, 32), -1.0), "between 0 and 1"),
        (torch.full((1, 3, 32, 32), 255.0), "between 0 and 1"),
    ],
)
def test_unusable_images_are_refused(pixels, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(pixels, lambda x: x, lambda x: x)


def test_codecs_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"the decoder gives \[3, 3, 16, 16\]"):
        reconstruct(images(), Resampling(2).encode, lambda x: x)
    with pytest.raises(ValueError, match="cannot be parted into 3s"):
        Resampling(3).encode(images())
    with pytest.raises(ValueError, match="factor must be at least 2"):
        Resampling(1)


def test_the_combination_is_fisher_s():
    generator = torch.Generator().manual_seed(0)
    signals, references = ([torch.randn(n, generator=generator) for _ in range(2)] for n in (7, 63))
    found = combined(signals, references)
    for row in range(7):
        p = [(1 + int((r >= s[row]).sum())) / 64 for s, r in zip(signals, references, strict=True)]
        assert found[row].item() == pytest.approx(combine_pvalues(p, method="fisher").statistic)


def test_ties_with_the_reference_count_as_at_or_above():
    assert combined([torch.tensor([1.0])], [torch.tensor([1.0, 0.0])]).item() == pytest.approx(
        -2 * np.log(2 / 3)
    )


@pytest.mark.parametrize(
    ("signals", "references", "message"),
    [
        ([], [], "0 signals"),
        ([torch.zeros(2)], [], "1 signals and 0 references"),
        ([torch.zeros(2), torch.zeros(3)], [torch.zeros(1)] * 2, r"signal 1 is \[3\]"),
        ([torch.zeros(2)], [torch.zeros(0)], r"its reference \[0\]"),
    ],
)
def test_signals_without_references_are_refused(signals, references, message):
    with pytest.raises(ValueError, match=message):
        combined(signals, references)
