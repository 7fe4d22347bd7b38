r"""The network's output and its exact derivatives by every label in one pass, without automatic differentiation.

Most labels are seen by their own token only: such a label shifts one key and one value of the attention, so that its
derivative needs no pass of its own through the softmax. The main labels (and carbon and oxygen, where the network knows
carbon monoxide) reach all tokens. The primal values are computed once for all labels. With s the scores of the
attention, w = softmax(s), v the values and g = w v,

    dg = (w ds - w sum(w ds)) v + w dv        labels that reach all tokens
    dg = w_j ds_j (v_j - g) + w_j dv_j        a label that reaches the token j alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from phdlspec.emulator.network import (
    CARBON,
    FE_H,
    MAIN,
    METAL_UNIT,
    N_MAIN,
    OXYGEN,
    SOLAR_C_TO_O,
    TEFF,
    CarbonMonoxide,
    Network,
)

_LN10 = math.log(10.0)


def coefficients_and_slopes(network: Network, x: Tensor) -> Tensor:
    """Coefficients and their derivatives by scaled label, (Q, B, 1 + L, K), for scaled labels x (B, L)."""
    shared = _shared_labels(network)
    token_features, plain = network.features(x)
    token_slopes, plain_slopes = _feature_slopes(network, x, shared)
    gathered, gathered_slopes = _attention(network, token_features, token_slopes, shared)
    patches, batch = gathered.shape[:2]
    value = torch.cat([gathered, plain.expand(patches, -1, -1)], dim=-1)
    slopes = torch.cat([gathered_slopes, plain_slopes.expand(patches, -1, -1, -1)], dim=-1)
    n_labels = slopes.shape[2]
    perceptrons, slopes = network.perceptrons, slopes.reshape(patches, batch * n_labels, -1)
    for matrix, offset in (
        (perceptrons.first, perceptrons.first_offset),
        (perceptrons.second, perceptrons.second_offset),
    ):
        value, gain = _silu(torch.baddbmm(offset, value, matrix))
        slopes = torch.bmm(slopes, matrix).reshape(patches, batch, n_labels, -1).mul_(gain[:, :, None])
        slopes = slopes.reshape(patches, batch * n_labels, -1)
    value = torch.baddbmm(perceptrons.head_offset, value, perceptrons.head)
    slopes = torch.bmm(slopes, perceptrons.head).reshape(patches, batch, n_labels, -1)
    return torch.cat([value[:, :, None], slopes], dim=2) * network.scale[:, None, None]


def _shared_labels(network: Network) -> list[int]:
    main = list(range(network.architecture.n_labels))[MAIN]
    return main if network.carbon_monoxide is None else [*main, CARBON, OXYGEN]


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    # The activation and its derivative.
    sigmoid = torch.sigmoid(x)
    return x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid))


def _feature_slopes(network: Network, x: Tensor, shared: list[int]) -> tuple[Tensor, Tensor]:
    """Derivatives of `Network.features`.

    Of the tokens' (L, T + 1, B, F): by the T shared labels, then by the token's own one; of the others (B, L, F').
    """
    batch, n_labels = x.shape
    half = 0.5 * (network.upper - network.lower)
    every = torch.arange(n_labels, device=x.device)
    own = torch.where(every < MAIN.stop, torch.ones_like(half), half / METAL_UNIT)  # of an absolute value by its label
    absolute = torch.diag(own)
    absolute[FE_H, MAIN.stop :] = half[FE_H] / METAL_UNIT
    main = x.new_zeros(batch, n_labels, N_MAIN + 1)
    main[:, range(N_MAIN), range(N_MAIN)] = 1.0
    teff = network.lower[TEFF] + half[TEFF] * (x[:, TEFF] + 1.0)
    main[:, TEFF, N_MAIN] = -network.lower[TEFF] * network.upper[TEFF] / teff**2
    free = main[..., :0]
    if network.carbon_monoxide is not None:
        free = _free_slopes(network, network.carbon_monoxide, x, main, half)
    plain = torch.cat([absolute.expand(batch, -1, -1), main[..., N_MAIN:], free], dim=-1)
    eye = torch.eye(n_labels, device=x.device, dtype=x.dtype)

    def for_tokens(of_label: Tensor) -> Tensor:  # (B, T, f), the same for all tokens
        return of_label.transpose(0, 1).expand(n_labels, -1, -1, -1)

    def by_token(matrix: Tensor) -> Tensor:  # (T, L), the same for all stars
        return matrix.T[:, :, None, None].expand(-1, -1, batch, 1)

    of_shared = [
        for_tokens(main[:, shared]), by_token(eye[shared]), by_token(absolute[shared]), for_tokens(free[:, shared]),
    ]  # fmt: skip
    of_own = x.new_zeros(n_labels, 1, batch, N_MAIN + 3 + free.shape[-1])
    of_own[..., N_MAIN + 1], of_own[..., N_MAIN + 2] = 1.0, own[:, None, None]
    return torch.cat([torch.cat(of_shared, dim=-1), of_own], dim=1), plain


def _free_slopes(network: Network, co: CarbonMonoxide, x: Tensor, main_slopes: Tensor, half: Tensor) -> Tensor:
    """Derivatives (B, L, 2 layers) of `CarbonMonoxide` by scaled label: its free carbon f solves f^2 + f l = k c, so
    that (2 f + l) df = d(k c) - f dl; oxygen likewise."""
    main, carbon, oxygen = network.carbon_monoxide_inputs(x)
    abundance = torch.zeros_like(main_slopes[..., :2])  # of [C/H] and [O/H]
    abundance[:, FE_H] = half[FE_H]
    abundance[:, CARBON, 0], abundance[:, OXYGEN, 1] = half[CARBON], half[OXYGEN]
    c, o = (SOLAR_C_TO_O * 10**carbon)[:, None], (10**oxygen)[:, None]  # (B, 1, 1)
    dc, do = _LN10 * c * abundance[..., :1], _LN10 * o * abundance[..., 1:]
    exponent = co.offset + main @ co.slope
    kappa = (1e-3 + 10 ** exponent.clamp(max=8.0))[:, None]
    dk = _LN10 * (kappa - 1e-3) * (main_slopes @ co.slope) * (exponent < 8.0)[:, None]
    left, right = o - c + kappa, c - o + kappa
    root = torch.sqrt(left**2 + 4.0 * kappa * c)
    free_c = torch.where(left > 0.0, 2.0 * kappa * c / (left.abs() + root), 0.5 * (root - left))
    free_o = torch.where(right > 0.0, 2.0 * kappa * o / (right.abs() + root), 0.5 * (root - right))
    dfree_c = (c * dk + kappa * dc - free_c * (do - dc + dk)) / root
    dfree_o = (o * dk + kappa * do - free_o * (dc - do + dk)) / root
    of_carbon, of_oxygen = (
        (dk / kappa - (dk + change) / (kappa + free)) / _LN10 for free, change in ((free_o, dfree_o), (free_c, dfree_c))
    )
    return torch.cat([of_carbon, of_oxygen], dim=-1)


def _attention(network: Network, features: Tensor, slopes: Tensor, shared: list[int]) -> tuple[Tensor, Tensor]:
    """What the patches gather (Q, B, width) and its derivatives (Q, B, L, width) by label, from features (L, B, F) and
    their derivatives (L, T + 1, B, F)."""
    tokens, attention = network.tokens, network.attention
    n_labels, tangents, batch, _ = slopes.shape
    hidden, gain = _silu(torch.baddbmm(tokens.offset, features, tokens.first))
    token = torch.baddbmm(tokens.identity, hidden, tokens.second)
    hidden_slopes = torch.bmm(slopes.reshape(n_labels, tangents * batch, -1), tokens.first)
    hidden_slopes = hidden_slopes.reshape(n_labels, tangents, batch, -1) * gain[:, None]
    token_slopes = torch.bmm(hidden_slopes.reshape(n_labels, tangents * batch, -1), tokens.second)
    heads, patches, size = attention.query.shape

    def split(x: Tensor) -> Tensor:  # (L, n, width) to (n, H, L, size)
        return x.reshape(n_labels, -1, heads, size).permute(1, 2, 0, 3)

    query = attention.query / size**0.5
    key, value = split(attention.key(token)), split(attention.value(token))
    key_slopes = split(token_slopes @ attention.key.weight.T).reshape(tangents, batch, heads, n_labels, size)
    value_slopes = split(token_slopes @ attention.value.weight.T).reshape(tangents, batch, heads, n_labels, size)
    weight = torch.softmax(query @ key.mT + attention.bias, dim=-1)  # (B, H, Q, L)
    gathered = weight @ value
    moved = weight * (query @ key_slopes.mT)  # w ds, (T + 1, B, H, Q, L)
    change = moved[:-1] - weight * moved[:-1].sum(-1, keepdim=True)
    of_shared = change @ value + weight @ value_slopes[:-1]  # (T, B, H, Q, size)
    alone = [j for j in range(n_labels) if j not in shared]
    of_alone = (
        moved[-1][..., alone, None] * (value[:, :, None, alone] - gathered[:, :, :, None])
        + weight[..., alone, None] * value_slopes[-1][:, :, None, alone]
    )  # (B, H, Q, A, size)
    result = gathered.new_empty(patches, batch, n_labels, heads, size)
    result[:, :, shared] = of_shared.permute(3, 1, 0, 2, 4)
    result[:, :, alone] = of_alone.permute(2, 0, 3, 1, 4)
    return gathered.permute(2, 0, 1, 3).reshape(patches, batch, -1), result.reshape(patches, batch, n_labels, -1)
