"""Recurrent steps: short causal convolution, gated delta rule, selective state spaces, linear recurrence.

Contract: time runs along axis 1; a state goes in and the state after the last step comes out, computed in float32 and
returned in the dtype it came in (float32 for a fresh one); cutting the input anywhere and carrying the state gives
the same result. The native kernels go step by step at every length, so that a cut gives the same bits; they round a
state kept in a half type after each step, as a call for each step does. The plain forms take short inputs step by step
and long ones in chunks of matrix products; the step loops (`*_steps`) are the oracles of both.
"""

import mlx.core as mx

from . import native

__all__ = [
    "causal_conv",
    "diagonal_scan",
    "diagonal_scan_steps",
    "gated_delta",
    "gated_delta_steps",
    "linear_recurrence",
    "selective_scan",
    "selective_scan_steps",
]

_FEW = 4  # steps up to which a loop is cheaper than a chunk: decode and small verify steps
_CHUNK = 64
_FINE_CHUNK = 16  # with decays for each channel, pairs of steps are compared channel by channel
_FLOATS = (mx.float32, mx.bfloat16, mx.float16)


def causal_conv(
    x: mx.array, weight: mx.array, bias: mx.array | None, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Depthwise causal convolution.

    x (B, L, C), weight (C, K, 1) as `nn.Conv1d` with groups=C keeps it, bias (C,), state (B, K-1, C): the inputs
    before x, or None for zeros. Returns y (B, L, C) and the next state.
    """
    found = _native("causal_conv", x, weight, bias, state)
    if found is not None:
        return found
    kernel = weight.shape[1]
    if state is None:
        state = mx.zeros((x.shape[0], kernel - 1, x.shape[2]), x.dtype)
    padded = mx.concatenate([state.astype(x.dtype), x], axis=1)
    length = x.shape[1]
    if length <= _FEW:  # K multiply-adds beat a convolution call
        y = sum((padded[:, i : i + length] * weight[:, i, 0] for i in range(kernel)), mx.array(0, x.dtype))
    else:
        y = mx.conv1d(padded, weight, groups=x.shape[2])
    if bias is not None:
        y = y + bias
    return y, padded[:, padded.shape[1] - (kernel - 1) :]


def gated_delta(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Gated delta rule: S <- S*exp(log_decay); S <- S + (beta*(v - S k)) k^T; y = S q.

    q, k (B, L, Hk, Dk) normalized and scaled by the caller, v (B, L, Hv, Dv), log_decay (B, L, Hv) or, per channel,
    (B, L, Hv, Dk), at most 0, beta (B, L, Hv), state (B, Hv, Dv, Dk) or None for zeros. Hv is a multiple of Hk.
    Returns y (B, L, Hv, Dv) in v's dtype and the state. Source: https://arxiv.org/abs/2412.06464, with the chunked
    form of https://arxiv.org/abs/2406.06484; decays per channel: https://arxiv.org/abs/2510.26692.
    """
    found = _native("gated_delta", q, k, v, log_decay, beta, state)
    if found is not None:
        return found
    length = k.shape[1]
    if length <= _FEW:
        return gated_delta_steps(q, k, v, log_decay, beta, state)
    size = _FINE_CHUNK if log_decay.ndim == 4 else _CHUNK
    while size // 2 >= max(length, 8):
        size //= 2
    out_dtype = v.dtype
    q, k, v, state, kept = _delta_inputs(q, k, v, state)
    # (B, H, chunks, size, ...); padding has k = v = beta = 0 and no decay, so it leaves the state alone.
    q, k, v, g, beta = (_chunks(a.astype(mx.float32), size) for a in (q, k, v, log_decay, beta))
    inner, read, into, out_of, last = _delta_decays(q, k, g)
    inverse = _unit_lower_inverse(beta[..., None] * mx.tril(inner, -1))
    values = inverse @ (v * beta[..., None])  # what each step would write if the state before the chunk were zero
    erase = inverse @ (into * beta[..., None])  # and what of that state it takes away
    scores = mx.tril(read)
    total = mx.cumsum(g, axis=3)
    q = q * mx.exp(total if g.ndim == 5 else total[..., None])
    outputs = []
    for c in range(q.shape[2]):
        written = values[:, :, c] - erase[:, :, c] @ state.swapaxes(-1, -2)
        outputs.append(q[:, :, c] @ state.swapaxes(-1, -2) + scores[:, :, c] @ written)
        state = state * last[:, :, c] + written.swapaxes(-1, -2) @ out_of[:, :, c]
    return _unchunk(outputs, length).astype(out_dtype), state.astype(kept)


def gated_delta_steps(
    q: mx.array, k: mx.array, v: mx.array, log_decay: mx.array, beta: mx.array, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """`gated_delta`, step by step."""
    out_dtype = v.dtype
    q, k, v, state, kept = _delta_inputs(q, k, v, state)
    decay, beta = mx.exp(log_decay.astype(mx.float32)), beta.astype(mx.float32)
    if decay.ndim == 3:
        decay = decay[..., None]
    outputs = []
    for t in range(k.shape[1]):
        key = k[:, t, :, :, None]  # (B, H, Dk, 1)
        state = state * decay[:, t, :, None, :]
        delta = (v[:, t, :, :, None] - state @ key) * beta[:, t, :, None, None]
        state = state + delta * k[:, t, :, None, :]
        outputs.append((state @ q[:, t, :, :, None])[..., 0])
    return mx.stack(outputs, axis=1).astype(out_dtype), state.astype(kept)


def selective_scan(
    x: mx.array, dt: mx.array, a: mx.array, b: mx.array, c: mx.array, d: mx.array | None, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Mamba-2's state space: S <- S*exp(dt*a) + dt*x b^T; y = S c + d*x, for each head.

    x (B, L, H, P), dt (B, L, H) after softplus and limits, a (H,) negative, b and c (B, L, G, N) with H a multiple
    of G, d (H,) or None, state (B, H, P, N) or None for zeros. Returns y (B, L, H, P) in x's dtype and the state.
    Source: https://arxiv.org/abs/2405.21060, section 6.
    """
    found = _native("selective_scan", x, dt, a, b, c, d, state)
    if found is not None:
        return found
    batch, length, heads, width = x.shape
    if length <= _FEW:
        return selective_scan_steps(x, dt, a, b, c, d, state)
    size = _CHUNK
    while size // 2 >= max(length, 8):
        size //= 2
    groups, states = b.shape[2], b.shape[3]
    if state is None:
        state = mx.zeros((batch, heads, width, states), mx.float32)
    kept, state = state.dtype, state.astype(mx.float32)
    dt = dt.astype(mx.float32)
    inputs = _chunks(x.astype(mx.float32) * dt[..., None], size)  # (B, H, chunks, size, P)
    decay = _chunks(dt * a.astype(mx.float32), size)  # (B, H, chunks, size)
    total = mx.cumsum(decay, axis=-1)
    b, c = (_chunks(m.astype(mx.float32), size) for m in (b, c))  # (B, G, chunks, size, N)
    scores = _over_heads(c @ b.swapaxes(-1, -2), heads) * _pair_decay(decay)
    inner = scores @ inputs
    inputs = inputs * mx.exp(mx.cumsum(decay, axis=-1, reverse=True, inclusive=False))[..., None]
    written = inputs.swapaxes(-1, -2).reshape(batch, groups, -1, *inputs.shape[2:3], width, size)
    written = (written @ b[:, :, None]).reshape(batch, heads, -1, width, states)
    reach, whole = mx.exp(total)[..., None], mx.exp(total[..., -1:])[..., None]
    outputs = []
    for i in range(inner.shape[2]):
        # (B, G, H/G*P, N) against (B, G, size, N): the heads of a group read with the same c.
        grouped = state.reshape(batch, groups, -1, states)
        past = (c[:, :, i] @ grouped.swapaxes(-1, -2)).reshape(batch, groups, size, heads // groups, width)
        past = past.transpose(0, 1, 3, 2, 4).reshape(batch, heads, size, width)
        outputs.append(inner[:, :, i] + past * reach[:, :, i])
        state = state * whole[:, :, i] + written[:, :, i]
    y = _unchunk(outputs, length)
    if d is not None:
        y = y + x.astype(mx.float32) * d.astype(mx.float32)[:, None]
    return y.astype(x.dtype), state.astype(kept)


def selective_scan_steps(
    x: mx.array, dt: mx.array, a: mx.array, b: mx.array, c: mx.array, d: mx.array | None, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """`selective_scan`, step by step."""
    batch, length, heads, width = x.shape
    if state is None:
        state = mx.zeros((batch, heads, width, b.shape[-1]), mx.float32)
    kept, state = state.dtype, state.astype(mx.float32)
    repeat = heads // b.shape[2]
    inputs, dt, a, b, c = (m.astype(mx.float32) for m in (x, dt, a, b, c))
    if repeat > 1:
        b, c = mx.repeat(b, repeat, axis=2), mx.repeat(c, repeat, axis=2)
    decay = mx.exp(dt * a)  # (B, L, H)
    outputs = []
    for t in range(length):
        write = (inputs[:, t] * dt[:, t, :, None])[..., None] * b[:, t, :, None, :]
        state = state * decay[:, t, :, None, None] + write
        outputs.append((state @ c[:, t, :, :, None])[..., 0])
    y = mx.stack(outputs, axis=1)
    if d is not None:
        y = y + inputs * d.astype(mx.float32)[:, None]
    return y.astype(x.dtype), state.astype(kept)


def diagonal_scan(
    x: mx.array, dt: mx.array, a: mx.array, b: mx.array, c: mx.array, d: mx.array | None, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """Mamba-1's state space, whose decay is its own for each channel and state: S <- S*exp(dt*a) + dt*x b^T; y = S c.

    x and dt (B, L, D), a (D, N) negative, b and c (B, L, N), d (D,) or None, state (B, D, N) or None for zeros.
    Returns y (B, L, D) in x's dtype, with d*x added, and the state. Source: https://arxiv.org/abs/2312.00752.

    In the plain form all chunks run at once from zeros, then the states at the cuts are chained and their part is
    added: about 2*sqrt(L) steps instead of L.
    """
    found = _native("diagonal_scan", x, dt, a, b, c, d, state)
    if found is not None:
        return found
    batch, length, channels = x.shape
    if length <= 2 * _FINE_CHUNK:
        return diagonal_scan_steps(x, dt, a, b, c, d, state)
    size = max(_FINE_CHUNK, int(length**0.5))
    if state is None:
        state = mx.zeros((batch, channels, a.shape[1]), mx.float32)
    kept, state = state.dtype, state.astype(mx.float32)
    inputs, dt, a = x.astype(mx.float32), dt.astype(mx.float32), a.astype(mx.float32)
    pad = -length % size
    parts = [mx.pad(m.astype(mx.float32), [(0, 0), (0, pad), (0, 0)]) for m in (inputs * dt, dt, b, c)]
    u, step, b, c = (p.reshape(-1, size, p.shape[-1]) for p in parts)  # (B*chunks, size, ...)
    inner, written = _diagonal_loop(u, step, a, b, c, mx.zeros((u.shape[0], *a.shape), mx.float32))
    total = mx.cumsum(step, axis=1)  # (B*chunks, size, D)
    whole = mx.exp(total[:, -1, :, None] * a).reshape(batch, -1, *a.shape)
    written = written.reshape(whole.shape)
    starts = []
    for i in range(whole.shape[1]):
        starts.append(state)
        state = state * whole[:, i] + written[:, i]
    start = mx.stack(starts, axis=1).reshape(u.shape[0], *a.shape)
    past = [((start * mx.exp(total[:, t, :, None] * a)) @ c[:, t, :, None])[..., 0] for t in range(size)]
    y = (inner + mx.stack(past, axis=1)).reshape(batch, -1, channels)[:, :length]
    if d is not None:
        y = y + inputs * d.astype(mx.float32)
    return y.astype(x.dtype), state.astype(kept)


def diagonal_scan_steps(
    x: mx.array, dt: mx.array, a: mx.array, b: mx.array, c: mx.array, d: mx.array | None, state: mx.array | None
) -> tuple[mx.array, mx.array]:
    """`diagonal_scan`, step by step."""
    if state is None:
        state = mx.zeros((x.shape[0], *a.shape), mx.float32)
    inputs, dt, a, b, c = (m.astype(mx.float32) for m in (x, dt, a, b, c))
    y, new = _diagonal_loop(inputs * dt, dt, a, b, c, state.astype(mx.float32))
    if d is not None:
        y = y + inputs * d.astype(mx.float32)
    return y.astype(x.dtype), new.astype(state.dtype)


def linear_recurrence(log_decay: mx.array, x: mx.array, state: mx.array | None) -> tuple[mx.array, mx.array]:
    """h <- h*exp(log_decay) + x for each channel, in log2(L) rounds of doubling spans.

    log_decay and x (B, L, D), log_decay at most 0, state (B, D) or None for zeros. Returns all h (B, L, D) in x's
    dtype and the last, in the state's dtype. Source: https://arxiv.org/abs/2402.19427, section 2.4.
    """
    decay, h = mx.exp(log_decay.astype(mx.float32)), x.astype(mx.float32)
    kept = mx.float32 if state is None else state.dtype
    if state is not None:
        first = h[:, :1] + decay[:, :1] * state.astype(mx.float32)[:, None]
        h = mx.concatenate([first, h[:, 1:]], axis=1)
    span = 1
    while span < h.shape[1]:
        h = mx.concatenate([h[:, :span], h[:, span:] + decay[:, span:] * h[:, :-span]], axis=1)
        decay = mx.concatenate([decay[:, :span], decay[:, span:] * decay[:, :-span]], axis=1)
        span *= 2
    return h.astype(x.dtype), h[:, -1].astype(kept)


def _native(name: str, *inputs: mx.array | None) -> tuple[mx.array, mx.array] | None:
    """The native kernel's outputs, or None where it does not run: off the CPU, under a transformation, without data.

    The state comes last; that of a convolution of one step is empty.
    """
    module = native.extension()
    if module is None or any(a is not None and a.dtype not in _FLOATS for a in inputs):
        return None
    if any(a is not None and a.size == 0 for a in inputs[:-1]):
        return None
    return getattr(module, name)(*inputs)


def _delta_inputs(
    q: mx.array, k: mx.array, v: mx.array, state: mx.array | None
) -> tuple[mx.array, mx.array, mx.array, mx.array, mx.Dtype]:
    """All in float32, queries and keys repeated for each value head, and the dtype in which the state is kept."""
    batch, _, key_heads, key_dim = k.shape
    value_heads, value_dim = v.shape[2], v.shape[3]
    if state is None:
        state = mx.zeros((batch, value_heads, value_dim, key_dim), mx.float32)
    if value_heads != key_heads:
        q, k = (mx.repeat(a, value_heads // key_heads, axis=2) for a in (q, k))
    q, k, v = (a.astype(mx.float32) for a in (q, k, v))
    return q, k, v, state.astype(mx.float32), state.dtype


def _delta_decays(q: mx.array, k: mx.array, g: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array, mx.array]:
    """Decayed products inside chunks: k.k and q.k pairs, keys that read the state before the chunk, keys that write
    the state after it, and the decay of the whole chunk; all (B, H, chunks, ...)."""
    if g.ndim == 4:
        pairs, keys = _pair_decay(g), k.swapaxes(-1, -2)
        inner, read = (k @ keys) * pairs, (q @ keys) * pairs
        g = g[..., None]
    else:
        # Per channel the decay stands inside the product. A few chunks at a time: there is a size x size x Dk block
        # for each.
        count = q.shape[2]
        parts = [_channel_pairs(*(a[:, :, c : c + 8] for a in (q, k, g))) for c in range(0, count, 8)]
        inner, read = (mx.concatenate(list(part), axis=2) for part in zip(*parts, strict=True))
    into = mx.exp(mx.cumsum(g, axis=3)) * k
    out_of = mx.exp(mx.cumsum(g, axis=3, reverse=True, inclusive=False)) * k
    return inner, read, into, out_of, mx.exp(g.sum(axis=3, keepdims=True))


def _channel_pairs(q: mx.array, k: mx.array, g: mx.array) -> tuple[mx.array, mx.array]:
    """k.k and q.k pairs with a decay for each channel: (..., size, Dk) -> two (..., size, size)."""
    decay = _pair_decay(g.swapaxes(-1, -2)).transpose(0, 1, 2, 4, 5, 3)  # (B, H, chunks, i, j, Dk)
    reach = decay * k[..., None, :, :]
    return (reach @ k[..., None])[..., 0], (reach @ q[..., None])[..., 0]


def _pair_decay(log_decay: mx.array) -> mx.array:
    """exp(log_decay summed over j+1..i) for i >= j, else 0: (..., size) -> (..., size, size).

    Summed for each pair: differences of one running sum lose what strong decays need.
    """
    size = log_decay.shape[-1]
    steps = mx.tril(mx.broadcast_to(log_decay[..., None], (*log_decay.shape, size)), -1)  # row i: log_decay_i
    return mx.tril(mx.exp(mx.cumsum(steps, axis=-2)))


def _unit_lower_inverse(strict: mx.array) -> mx.array:
    """(I + strict)^-1 for strictly lower triangular (..., n, n), n a power of two times 8 or less.

    Blocks of 8 by the finite Neumann series, then pairs of blocks are joined. The series alone would cancel
    catastrophically at 64: its terms grow like binomial coefficients where keys repeat.
    """
    n = strict.shape[-1]
    size = min(n, 8)
    lead = strict.shape[:-2]
    count = n // size
    blocks = strict.reshape(*lead, count, size, count, size)
    negative = -mx.stack([blocks[..., i, :, i, :] for i in range(count)], axis=-3)
    eye = mx.eye(size)
    inverse, power = eye + negative, negative
    covered = 2
    while covered < size:
        power = power @ power
        inverse = inverse @ (eye + power)
        covered *= 2
    while size < n:
        count = n // (2 * size)
        blocks = strict.reshape(*lead, count, 2 * size, count, 2 * size)
        below = mx.stack([blocks[..., i, size:, i, :size] for i in range(count)], axis=-3)
        upper, lower = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        joined = -(lower @ below @ upper)
        top = mx.concatenate([upper, mx.zeros_like(upper)], axis=-1)
        inverse = mx.concatenate([top, mx.concatenate([joined, lower], axis=-1)], axis=-2)
        size *= 2
    return inverse[..., 0, :, :]


def _diagonal_loop(
    u: mx.array, dt: mx.array, a: mx.array, b: mx.array, c: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    outputs = []
    for t in range(u.shape[1]):
        state = state * mx.exp(dt[:, t, :, None] * a) + u[:, t, :, None] * b[:, t, None, :]
        outputs.append((state @ c[:, t, :, None])[..., 0])
    return mx.stack(outputs, axis=1), state


def _chunks(a: mx.array, size: int) -> mx.array:
    """(B, L, H, ...) -> (B, H, chunks, size, ...), with zeros after the end."""
    pad = -a.shape[1] % size
    if pad:
        a = mx.pad(a, [(0, 0), (0, pad)] + [(0, 0)] * (a.ndim - 2))
    return mx.unflatten(a.swapaxes(1, 2), 2, (-1, size))


def _unchunk(outputs: list[mx.array], length: int) -> mx.array:
    """Chunks of (B, H, size, D) -> (B, length, H, D)."""
    return mx.concatenate(outputs, axis=2)[:, :, :length].swapaxes(1, 2)


def _over_heads(a: mx.array, heads: int) -> mx.array:
    """(B, G, ...) -> (B, H, ...), each group for its consecutive heads."""
    return a if a.shape[1] == heads else mx.repeat(a, heads // a.shape[1], axis=1)
