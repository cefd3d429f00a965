"""Kernels of steps along the part of a gradient that is perpendicular to the weight, for many tensors in a launch.

Letters: P tensors, C chunks of them. A tensor's row of `table` [P, COLUMNS] int64 has the addresses of its weight, its
gradient and its moments, all float32; `owner` [C] int32 is the tensor of each chunk. Everything is computed in float64:
where the gradient is all but parallel to the weight, their difference cancels.
"""

import triton
import triton.language as tl

COLUMNS = tl.constexpr(6)  # of the table: four addresses, number of elements, first chunk
WEIGHT, GRADIENT, EXP_AVG, EXP_AVG_SQ = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
COUNT, FIRST = tl.constexpr(4), tl.constexpr(5)
# lr, 1 - lr * weight decay, 1 - beta1, beta2, 1 - beta2, eps, 1 / (1 - beta1^step), 1 / (1 - beta2^step)
OPTIONS = tl.constexpr(8)
SUMS = tl.constexpr(3)  # w.w, w.d, d.d
FOUND = tl.constexpr(4)  # of a tensor: w.d / w.w, the stretch, d.d, and 1 if the difference of the sums cancels
NOTHING_LEFT = tl.constexpr(1e-6)  # of the length: what is left is rounding, and is not stretched
CANCELS = tl.constexpr(1e-4)  # of the square: below, the difference of the sums has too few digits


@triton.jit
def chunk_of_program(table_ptr, owner_ptr, CHUNK: tl.constexpr):
    # The tensor of a program's chunk, where the chunk begins in it, and how many elements it has.
    tensor = tl.load(owner_ptr + tl.program_id(0))
    row = table_ptr + tensor * COLUMNS
    begin = (tl.program_id(0) - tl.load(row + FIRST)) * CHUNK
    return tensor, begin, tl.minimum(tl.load(row + COUNT) - begin, CHUNK).to(tl.int32)


@triton.jit
def column_of(table_ptr, tensor, begin, COLUMN: tl.constexpr, ALIGNED: tl.constexpr):
    # Where a chunk begins in the weights, the gradients or the moments.
    address = tl.load(table_ptr + tensor * COLUMNS + COLUMN)
    pointer = address.to(tl.pointer_type(tl.float32)) + begin
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def load_wide(x_ptr, places, count, WHOLE: tl.constexpr):
    # Elements [TILE] in float64; 0 past the end, or WHOLE: none is.
    x = tl.load(x_ptr + places) if WHOLE else tl.load(x_ptr + places, mask=places < count, other=0.0)
    return x.to(tl.float64)


@triton.jit
def store_narrow(x_ptr, places, count, values, WHOLE: tl.constexpr):
    if WHOLE:
        tl.store(x_ptr + places, values.to(tl.float32))
    else:
        tl.store(x_ptr + places, values.to(tl.float32), mask=places < count)


@triton.jit
def load_factors(options_ptr):
    # What `adam` takes of a tensor's options.
    fresh1, beta2, fresh2 = tl.load(options_ptr + 2), tl.load(options_ptr + 3), tl.load(options_ptr + 4)
    return fresh1, beta2, fresh2, tl.load(options_ptr + 5), tl.load(options_ptr + 6), tl.load(options_ptr + 7)


@triton.jit
def adam(g, m, v, factors):
    # Moments after a gradient, and the update that they give.
    fresh1, beta2, fresh2, eps, corrected1, corrected2 = factors
    m = m + fresh1 * (g - m)
    v = beta2 * v + fresh2 * g * g
    return m, v, m * corrected1 / (tl.sqrt(v * corrected2) + eps)


@triton.jit
def load_direction(g_ptr, m_ptr, v_ptr, factors, places, count, UPDATE: tl.constexpr, WHOLE: tl.constexpr):
    # What is projected: the gradient, or with UPDATE what AdamW would subtract; 0 past the end.
    g = load_wide(g_ptr, places, count, WHOLE)
    if UPDATE:
        m, v = load_wide(m_ptr, places, count, WHOLE), load_wide(v_ptr, places, count, WHOLE)
        _, _, g = adam(g, m, v, factors)
        if not WHOLE:
            g = tl.where(places < count, g, 0.0)
    return g


@triton.jit
def ortho_sums_kernel(
    table_ptr, owner_ptr, options_ptr, sums_ptr,
    UPDATE: tl.constexpr, ALIGNED: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, VEC: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    # Sums of each chunk, of the weight w and the direction d.
    #
    #   options [P, OPTIONS] float64     sums [C, SUMS] float64
    #   grid (C,), a program a chunk     reads 8 bytes an element, with UPDATE 16
    tensor, begin, count = chunk_of_program(table_ptr, owner_ptr, CHUNK)
    factors = load_factors(options_ptr + tensor * OPTIONS)
    w_ptr = column_of(table_ptr, tensor, begin, WEIGHT, ALIGNED)
    g_ptr = column_of(table_ptr, tensor, begin, GRADIENT, ALIGNED)
    m_ptr = column_of(table_ptr, tensor, begin, EXP_AVG, ALIGNED)
    v_ptr = column_of(table_ptr, tensor, begin, EXP_AVG_SQ, ALIGNED)
    TILE: tl.constexpr = LANES * DEPTH * VEC
    lane = tl.arange(0, TILE)
    ww, wd, dd = tl.zeros((TILE,), tl.float64), tl.zeros((TILE,), tl.float64), tl.zeros((TILE,), tl.float64)
    whole = count // TILE * TILE
    for start in range(0, whole, TILE):
        places = start + lane
        w = load_wide(w_ptr, places, count, True)
        d = load_direction(g_ptr, m_ptr, v_ptr, factors, places, count, UPDATE, True)
        ww += w * w
        wd += w * d
        dd += d * d
    if whole < count:
        places = whole + lane
        w = load_wide(w_ptr, places, count, False)
        d = load_direction(g_ptr, m_ptr, v_ptr, factors, places, count, UPDATE, False)
        ww += w * w
        wd += w * d
        dd += d * d
    sums = sums_ptr + tl.program_id(0) * SUMS
    tl.store(sums, tl.sum(ww, axis=0))
    tl.store(sums + 1, tl.sum(wd, axis=0))
    tl.store(sums + 2, tl.sum(dd, axis=0))


@triton.jit
def ortho_rest_kernel(
    table_ptr, owner_ptr, options_ptr, found_ptr, rest_ptr,
    UPDATE: tl.constexpr, ALIGNED: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr, VEC: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    # Sum of (d - along w)^2 over each chunk of those tensors whose sums cancel; as ortho_sums_kernel.
    #
    #   found [P, FOUND] float64     rest [C] float64, written where needed
    tensor, begin, count = chunk_of_program(table_ptr, owner_ptr, CHUNK)
    found = found_ptr + tensor * FOUND
    if tl.load(found + 3) != 0.0:
        along = tl.load(found)
        factors = load_factors(options_ptr + tensor * OPTIONS)
        w_ptr = column_of(table_ptr, tensor, begin, WEIGHT, ALIGNED)
        g_ptr = column_of(table_ptr, tensor, begin, GRADIENT, ALIGNED)
        m_ptr = column_of(table_ptr, tensor, begin, EXP_AVG, ALIGNED)
        v_ptr = column_of(table_ptr, tensor, begin, EXP_AVG_SQ, ALIGNED)
        TILE: tl.constexpr = LANES * DEPTH * VEC
        lane = tl.arange(0, TILE)
        rest = tl.zeros((TILE,), tl.float64)
        whole = count // TILE * TILE
        for start in range(0, whole, TILE):
            w = load_wide(w_ptr, start + lane, count, True)
            left = load_direction(g_ptr, m_ptr, v_ptr, factors, start + lane, count, UPDATE, True) - along * w
            rest += left * left
        if whole < count:
            w = load_wide(w_ptr, whole + lane, count, False)
            left = load_direction(g_ptr, m_ptr, v_ptr, factors, whole + lane, count, UPDATE, False) - along * w
            rest += left * left
        tl.store(rest_ptr + tl.program_id(0), tl.sum(rest, axis=0))


@triton.jit
def add_chunks(x_ptr, first, last, STRIDE: tl.constexpr, LANES: tl.constexpr):
    # Sum of x[first * STRIDE], x[(first + 1) * STRIDE], ... of chunks [first, last), in a fixed order.
    lane = tl.arange(0, LANES)
    total = tl.zeros((LANES,), tl.float64)
    for start in range(first, last, LANES):
        chunks = start + lane
        total += tl.load(x_ptr + chunks * STRIDE, mask=chunks < last, other=0.0)
    return tl.sum(total, axis=0)


@triton.jit
def stretch(dd, left):
    # What makes a vector of squared length `left` as long as one of squared length dd; 1 where nothing is left.
    length, remains = tl.sqrt(dd), tl.sqrt(left)
    some = (remains > 0.0) & ((remains < NOTHING_LEFT * length) == 0)
    return tl.where(some, length / tl.where(some, remains, 1.0), 1.0)


@triton.jit
def ortho_found_kernel(
    table_ptr, sums_ptr, rest_ptr, found_ptr, AGAIN: tl.constexpr, CHUNK: tl.constexpr, LANES: tl.constexpr
):
    # Each tensor's projection from the sums of its chunks; AGAIN: where they cancel, from the sums of what is left.
    #
    #   found [P, FOUND] float64     grid (P,), a program a tensor
    tensor = tl.program_id(0)
    row = table_ptr + tensor * COLUMNS
    first = tl.load(row + FIRST)
    last = first + (tl.load(row + COUNT) + CHUNK - 1) // CHUNK
    found = found_ptr + tensor * FOUND
    if AGAIN:
        if tl.load(found + 3) != 0.0:
            tl.store(found + 1, stretch(tl.load(found + 2), add_chunks(rest_ptr, first, last, 1, LANES)))
    else:
        ww = add_chunks(sums_ptr, first, last, SUMS, LANES)
        wd = add_chunks(sums_ptr + 1, first, last, SUMS, LANES)
        dd = add_chunks(sums_ptr + 2, first, last, SUMS, LANES)
        along = tl.where(ww > 0.0, wd / tl.where(ww > 0.0, ww, 1.0), 0.0)
        left = dd - along * wd
        cancels = (left > CANCELS * dd) == 0  # NaN cancels too
        tl.store(found, along)
        tl.store(found + 1, stretch(dd, left))
        tl.store(found + 2, dd)
        tl.store(found + 3, cancels.to(tl.float64))


@triton.jit
def step_tile(
    w_ptr, g_ptr, m_ptr, v_ptr, lr, kept, factors, along, scale, places, count,
    ADAM: tl.constexpr, UPDATE: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    # A tile of ortho_step_kernel.
    w = load_wide(w_ptr, places, count, WHOLE)
    g = load_wide(g_ptr, places, count, WHOLE)
    if not UPDATE:
        g = scale * (g - along * w)
    if ADAM:
        m, v = load_wide(m_ptr, places, count, WHOLE), load_wide(v_ptr, places, count, WHOLE)
        m, v, update = adam(g, m, v, factors)
        if UPDATE:
            update = scale * (update - along * w)
        store_narrow(m_ptr, places, count, m, WHOLE)
        store_narrow(v_ptr, places, count, v, WHOLE)
        store_narrow(w_ptr, places, count, w * kept - lr * update, WHOLE)
    else:
        store_narrow(g_ptr, places, count, g, WHOLE)


@triton.jit
def ortho_step_kernel(
    table_ptr, owner_ptr, options_ptr, found_ptr,
    ADAM: tl.constexpr, UPDATE: tl.constexpr, ALIGNED: tl.constexpr, LANES: tl.constexpr, DEPTH: tl.constexpr,
    VEC: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    # With ADAM a step of AdamW along the projection, else the projected gradient in the gradient's place.
    #
    #   grid (C,), a program a chunk     reads and writes 28 bytes an element, without ADAM 12
    tensor, begin, count = chunk_of_program(table_ptr, owner_ptr, CHUNK)
    factors = load_factors(options_ptr + tensor * OPTIONS)
    lr, kept = tl.load(options_ptr + tensor * OPTIONS), tl.load(options_ptr + tensor * OPTIONS + 1)
    along, scale = tl.load(found_ptr + tensor * FOUND), tl.load(found_ptr + tensor * FOUND + 1)
    w_ptr = column_of(table_ptr, tensor, begin, WEIGHT, ALIGNED)
    g_ptr = column_of(table_ptr, tensor, begin, GRADIENT, ALIGNED)
    m_ptr = column_of(table_ptr, tensor, begin, EXP_AVG, ALIGNED)
    v_ptr = column_of(table_ptr, tensor, begin, EXP_AVG_SQ, ALIGNED)
    TILE: tl.constexpr = LANES * DEPTH * VEC
    lane = tl.arange(0, TILE)
    whole = count // TILE * TILE
    for start in range(0, whole, TILE):
        step_tile(w_ptr, g_ptr, m_ptr, v_ptr, lr, kept, factors, along, scale, start + lane, count, ADAM, UPDATE, True)
    if whole < count:
        step_tile(w_ptr, g_ptr, m_ptr, v_ptr, lr, kept, factors, along, scale, whole + lane, count, ADAM, UPDATE, False)
