"""Recurrent steps: short causal convolution, gated delta rule, selective state space.

Contract: time runs along axis 1; a state goes in and the state after the last step comes out, float32 where the
recurrence accumulates; cutting the input anywhere and carrying the state gives the same result.
"""

import mlx.core as mx

__all__ = ["causal_conv", "gated_delta", "selective_scan"]


def causal_conv(
    x: mx.array, weight: mx.array, bias: mx.array | None, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Depthwise causal convolution.

    x (B, L, C), weight (C, K, 1) as `nn.Conv1d` with groups=C keeps it, bias (C,), state (B, K-1, C): the inputs
    before x, or None for zeros. Returns y (B, L, C) and the next state.
    """
    kernel = weight.shape[1]
    if state is None:
        state = mx.zeros((x.shape[0], kernel - 1, x.shape[2]), x.dtype)
    padded = mx.concatenate([state.astype(x.dtype), x], axis=1)
    length = x.shape[1]
    if length <= 4:  # a decode step: K multiply-adds beat a convolution call
        y = sum((padded[:, i : i + length] * weight[:, i, 0] for i in range(kernel)), mx.array(0, x.dtype))
    else:
        y = mx.conv1d(padded, weight, groups=x.shape[2])
    if bias is not None:
        y = y + bias
    return y, padded[:, padded.shape[1] - (kernel - 1) :]


def gated_delta(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    decay: mx.array,
    beta: mx.array,
    state: mx.array | None,
) -> tuple[mx.array, mx.array]:
    """Gated delta rule, step by step: S <- S*decay; S <- S + (beta*(v - S k)) k^T; y = S q.

    q, k (B, L, Hk, Dk) normalized and scaled by the caller, v (B, L, Hv, Dv), decay (B, L, Hv) in (0, 1] or
    (B, L, Hv, Dk) per channel, beta (B, L, Hv), state (B, Hv, Dv, Dk) float32 or None for zeros. Hv is a multiple
    of Hk. Returns y (B, L, Hv, Dv) in v's dtype and the state. Source: https://arxiv.org/abs/2412.06464.
    """
    batch, length, key_heads, key_dim = k.shape
    value_heads, value_dim = v.shape[2], v.shape[3]
    if state is None:
        state = mx.zeros((batch, value_heads, value_dim, key_dim), mx.float32)
    if value_heads != key_heads:
        q = mx.repeat(q, value_heads // key_heads, axis=2)
        k = mx.repeat(k, value_heads // key_heads, axis=2)
    kept_dtype = state.dtype
    if decay.ndim == 3:
        decay = decay[..., None]
    q, k, values, decay, beta = (a.astype(mx.float32) for a in (q, k, v, decay, beta))
    outputs = []
    for t in range(length):
        state = state * decay[:, t, :, None, :]
        memory = (state * k[:, t, :, None, :]).sum(axis=-1)  # (B, Hv, Dv)
        delta = (values[:, t] - memory) * beta[:, t, :, None]
        state = state + delta[..., None] * k[:, t, :, None, :]
        outputs.append((state * q[:, t, :, None, :]).sum(axis=-1))
        state = state.astype(kept_dtype)
    return mx.stack(outputs, axis=1).astype(v.dtype), state


def selective_scan(
    x: mx.array,
    dt: mx.array,
    a: mx.array,
    b: mx.array,
    c: mx.array,
    d: mx.array | None,
    state: mx.array | None,
) -> tuple[mx.array, mx.array]:
    """Mamba-2's state space: S <- S*exp(dt*a) + dt*x b^T; y = S c + d*x, for each head.

    x (B, L, H, P), dt (B, L, H) after softplus and limits, a (H,) negative, b and c (B, L, G, N) with H a multiple
    of G, d (H,) or None, state (B, H, P, N) float32 or None for zeros. Returns y (B, L, H, P) in x's dtype and the
    state. Source: https://arxiv.org/abs/2405.21060.
    """
    batch, length, heads, width = x.shape
    if state is None:
        state = mx.zeros((batch, heads, width, b.shape[-1]), mx.float32)
    repeat = heads // b.shape[2]
    inputs, dt, a, b, c = (m.astype(mx.float32) for m in (x, dt, a, b, c))
    if repeat > 1:
        b, c = mx.repeat(b, repeat, axis=2), mx.repeat(c, repeat, axis=2)
    decay = mx.exp(dt * a)  # (B, L, H)
    outputs = []
    for t in range(length):
        write = (inputs[:, t] * dt[:, t, :, None])[..., None] * b[:, t, :, None, :]
        state = state * decay[:, t, :, None, None] + write
        outputs.append((state * c[:, t, :, None, :]).sum(axis=-1))
    y = mx.stack(outputs, axis=1)
    if d is not None:
        y = y + inputs * d.astype(mx.float32)[:, None]
    return y.astype(x.dtype), state
