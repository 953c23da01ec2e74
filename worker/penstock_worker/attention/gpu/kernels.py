"""Triton kernels over the KV pool: store, attend, combine.

One kernel attends for prompts and for decoding, as a tile of queries is a tile of queries: its rows
are some tokens of one sequence times the query heads that share a KV head, so that KV is read once
for all of them. A prompt's tile has many tokens. A decoding sequence has one, and to keep the whole
device busy its context is cut into splits, which are combined afterwards (split-KV: Dao et al.,
"Flash-Decoding", 2023). The softmax is computed as the context is read (Milakov and Gimelshein,
"Online normalizer calculation for softmax", 2018).

A split is a number of tokens, not a share of the context or of the device: a token comes out the
same in whatever batch it is computed.
"""

import triton
import triton.language as tl


@triton.jit
def store(
    keys,  # [slots, WIDTH], where WIDTH = kv_heads · head_dim
    values,
    key,  # [tokens, WIDTH]
    value,
    slots,  # [tokens]
    key_stride,
    value_stride,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,  # WIDTH, or the next power of two
):
    """Put a token's key and value into its slot; a program per token. Slot -1 is nowhere."""
    token = tl.program_id(0)
    slot = tl.load(slots + token).to(tl.int64)
    if slot < 0:
        return
    column = tl.arange(0, PADDED)
    inside = column < WIDTH
    k = tl.load(key + token * key_stride + column, mask=inside)
    v = tl.load(value + token * value_stride + column, mask=inside)
    tl.store(keys + slot * WIDTH + column, k, mask=inside)
    tl.store(values + slot * WIDTH + column, v, mask=inside)


@triton.jit
def attend(
    out,  # [tokens, heads, HEAD_DIM]
    partial,  # [tokens, heads, splits, HEAD_DIM + 2] float32: sums, highest score, mass
    query,  # [tokens, heads, HEAD_DIM]
    keys,  # [slots, KV_HEADS, HEAD_DIM]
    values,
    tiles,  # [tiles, 4]: first row, tokens, position of the first, where its block table begins
    tables,  # [blocks]: the sequences' block tables, one after another
    scale,
    query_stride,  # of a token
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads per KV head
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,  # HEAD_DIM, or the next power of two
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,  # tokens seen; 0 for all
    CAP: tl.constexpr,  # scores are bent into ±CAP; 0 for none
    ROWS: tl.constexpr,  # tokens of a tile times GROUP, or more
    STEP: tl.constexpr,  # tokens of context read at a time
    SPLIT: tl.constexpr,  # tokens of context per program; 0 for all, without a partial
):
    """Attend from a tile of queries; a program per tile, KV head and split.

    There may be more splits than a context has, and tiles without a token: a launch that is
    captured in a graph has the same programs every time.
    """
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first = tl.load(tiles + tile * 4)
    count = tl.load(tiles + tile * 4 + 1)
    position = tl.load(tiles + tile * 4 + 2)
    table = tables + tl.load(tiles + tile * 4 + 3)
    if SPLIT > 0 and split * SPLIT >= position + count:
        return

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, PADDED_DIM)
    token = row // GROUP
    head = kv_head * GROUP + row % GROUP
    wanted = (token < count)[:, None] & (dim < HEAD_DIM)[None, :]
    q_at = (first + token) * query_stride + head * HEAD_DIM
    q = tl.load(query + q_at[:, None] + dim[None, :], mask=wanted, other=0.0)
    place = position + token  # of each row's token in its sequence

    begin, end = 0, position + count
    if WINDOW > 0:
        begin = tl.maximum(0, position - WINDOW + 1)
    if SPLIT > 0:
        begin = tl.maximum(begin, split * SPLIT)
        end = tl.minimum(end, split * SPLIT + SPLIT)

    highest = tl.full([ROWS], -float("inf"), tl.float32)
    mass = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS, PADDED_DIM], tl.float32)
    # From a multiple of STEP on, so that a token's sum has the same parts wherever its tile begins.
    for start in range(begin // STEP * STEP, end, STEP):
        context = start + tl.arange(0, STEP)
        inside = context < end
        block = tl.load(table + context // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
        at = ((block * BLOCK_SIZE + context % BLOCK_SIZE) * KV_HEADS + kv_head) * HEAD_DIM
        there = inside[:, None] & (dim < HEAD_DIM)[None, :]
        k = tl.load(keys + at[:, None] + dim[None, :], mask=there, other=0.0)
        v = tl.load(values + at[:, None] + dim[None, :], mask=there, other=0.0)
        seen = (context[None, :] <= place[:, None]) & (context >= begin)[None, :]
        if WINDOW > 0:
            seen = seen & (context[None, :] > place[:, None] - WINDOW)
        # Not in TF32, which keeps 10 bits of a float32; narrower types are not touched by this.
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        if CAP > 0:
            score = CAP * (2 * tl.sigmoid(score * (2 / CAP)) - 1)  # the tanh of score / CAP
        score = tl.where(seen & inside[None, :], score, -float("inf"))
        now = tl.maximum(highest, tl.max(score, 1))
        base = tl.where(now == -float("inf"), 0.0, now)  # nothing seen yet
        weight = tl.exp(score - base[:, None])
        shrink = tl.exp(highest - base)
        mass = mass * shrink + tl.sum(weight, 1)
        total = total * shrink[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        highest = now

    heads = KV_HEADS * GROUP
    if SPLIT > 0:
        splits = tl.num_programs(2)
        to = (((first + token) * heads + head) * splits + split) * (HEAD_DIM + 2)
        tl.store(partial + to[:, None] + dim[None, :], total, mask=wanted)
        tl.store(partial + to + HEAD_DIM, highest, mask=token < count)
        tl.store(partial + to + HEAD_DIM + 1, mass, mask=token < count)
    else:
        mass = tl.where(token < count, mass, 1.0)  # a row of no token has seen nothing
        to = ((first + token) * heads + head) * HEAD_DIM
        result = (total / mass[:, None]).to(out.dtype.element_ty)
        tl.store(out + to[:, None] + dim[None, :], result, mask=wanted)


@triton.jit(do_not_specialize=["splits"])
def combine(
    out,  # [tokens, heads, HEAD_DIM]
    partial,  # [tokens, heads, splits, HEAD_DIM + 2]
    tiles,  # [decoding sequences, 4], as above
    splits,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Add up the splits of a decoding token; a program per token and head."""
    tile, head = tl.program_id(0), tl.program_id(1)
    token = tl.load(tiles + tile * 4)
    context = tl.load(tiles + tile * 4 + 1) + tl.load(tiles + tile * 4 + 2)
    dim = tl.arange(0, PADDED_DIM)
    inside = dim < HEAD_DIM
    highest = -float("inf")
    mass = 0.0
    total = tl.zeros([PADDED_DIM], tl.float32)
    for split in range(tl.cdiv(context, SPLIT)):
        at = partial + ((token * HEADS + head) * splits + split) * (HEAD_DIM + 2)
        its_highest = tl.load(at + HEAD_DIM)
        now = tl.maximum(highest, its_highest)
        base = tl.where(now == -float("inf"), 0.0, now)  # a window may have left all splits so far
        shrink, grow = tl.exp(highest - base), tl.exp(its_highest - base)
        mass = mass * shrink + tl.load(at + HEAD_DIM + 1) * grow
        total = total * shrink + tl.load(at + dim, mask=inside, other=0.0) * grow
        highest = now
    mass = tl.where(mass > 0.0, mass, 1.0)  # a row of no token has seen nothing
    to = out + (token * HEADS + head) * HEAD_DIM
    tl.store(to + dim, (total / mass).to(out.dtype.element_ty), mask=inside)
