from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

FAILED, FOUND, STOPPED = 0, 1, 2


class Items(NamedTuple):
    lower: np.ndarray
    upper: np.ndarray
    size: np.ndarray
    align: np.ndarray
    fixed: np.ndarray
    cover_start: np.ndarray
    cover: np.ndarray
    first: np.ndarray  # first item whose lower >= s
    twin: np.ndarray   # previous item of same shape, or -1
    key: np.ndarray


class State(NamedTuple):
    floor: np.ndarray
    load: np.ndarray
    offset: np.ndarray
    lowest: np.ndarray


@njit(cache=True)
def _lift(items, st, b, height):
    """lowest offset of b at or above height"""
    a = items.align[b]
    o = -(-height // a) * a
    return o


@njit(cache=True)
def _raise(items, st, capacity, lo, hi, left, right, height, trail, top):
    """Nothing lies below height in sections left..right any more. -> top, ok"""
    S = len(st.floor)
    l, r = left, right
    for b in range(items.first[lo], items.first[right]):
        if st.offset[b] >= 0 or items.upper[b] <= left:
            continue
        o = _lift(items, st, b, height)
        if o > st.lowest[b]:
            if o + items.size[b] > capacity:
                return top, False
            trail[top, 0] = S + b
            trail[top, 1] = st.lowest[b]
            top += 1
            st.lowest[b] = o
            l = min(l, items.lower[b])
            r = max(r, items.upper[b])
    heads = np.empty(len(st.offset), np.int64)
    tails = np.empty(len(st.offset), np.int64)
    for s in range(l, r):
        k = 0
        for i in range(items.cover_start[s], items.cover_start[s + 1]):
            b = items.cover[i]
            if st.offset[b] < 0:
                h = st.lowest[b]
                z = items.size[b]
                j = k
                while j > 0 and heads[j - 1] > h:
                    heads[j] = heads[j - 1]
                    tails[j] = tails[j - 1]
                    j -= 1
                heads[j] = h
                tails[j] = z
                k += 1
        if k == 0:
            continue
        t = np.int64(0)
        for j in range(k):
            t = max(t, heads[j]) + tails[j]
        if t > capacity:
            return top, False
        if heads[0] > st.floor[s]:
            trail[top, 0] = s
            trail[top, 1] = st.floor[s]
            top += 1
            st.floor[s] = heads[0]
    return top, True


@njit(cache=True)
def _undo(items, st, trail, top, mark):
    S = len(st.floor)
    n = len(st.offset)
    while top > mark:
        top -= 1
        where = trail[top, 0]
        if where < S:
            st.floor[where] = trail[top, 1]
        elif where < S + n:
            st.lowest[where - S] = trail[top, 1]
        else:
            b = where - S - n
            st.offset[b] = -1
            for s in range(items.lower[b], items.upper[b]):
                st.load[s] += items.size[b]
    return top


@njit(cache=True)
def _place(items, st, capacity, lo, hi, b, trail, top):
    S = len(st.floor)
    n = len(st.offset)
    o = st.lowest[b]
    st.offset[b] = o
    trail[top, 0] = S + n + b
    top += 1
    for s in range(items.lower[b], items.upper[b]):
        st.load[s] -= items.size[b]
        trail[top, 0] = s
        trail[top, 1] = st.floor[s]
        top += 1
        st.floor[s] = o + items.size[b]
    return _raise(items, st, capacity, lo, hi, items.lower[b], items.upper[b], o + items.size[b], trail, top)


@njit(cache=True)
def _waste_to(items, st, lo, hi, s):
    best = np.int64(2**62)
    for i in range(items.cover_start[s], items.cover_start[s + 1]):
        b = items.cover[i]
        if st.offset[b] >= 0:
            continue
        if st.lowest[b] > st.floor[s]:
            best = min(best, st.lowest[b])
        else:
            for c in range(items.first[lo], items.first[items.upper[b]]):
                if st.offset[c] >= 0 or items.upper[c] <= items.lower[b]:
                    continue
                if items.lower[c] <= s < items.upper[c]:
                    continue
                best = min(best, _lift(items, st, b, st.lowest[c] + items.size[c]))
    return best


@njit(cache=True)
def _hash(items, st, lo, hi):
    h = np.uint64(1469598103934665603)
    for s in range(lo, hi):
        x = np.uint64(st.floor[s]) * np.uint64(0x9E3779B97F4A7C15) + items.key[s]
        x ^= x >> np.uint64(29)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(32)
        h += x * np.uint64(0x94D049BB133111EB)
    for b in range(items.first[lo], items.first[hi]):
        if st.offset[b] < 0:
            h ^= items.key[len(st.floor) + b]
    if h == 0:
        h = np.uint64(1)
    return h


@njit(cache=True)
def _choose(items, st, capacity, lo, hi, rank, count):
    """The section of a valley with the fewest choices."""
    for s in range(lo, hi):
        count[s] = 0
    for b in range(items.first[lo], items.first[hi]):
        if st.offset[b] < 0 and st.lowest[b] == st.floor[items.lower[b]]:
            t = items.twin[b]
            if t >= 0 and st.offset[t] < 0:
                continue
            for s in range(items.lower[b], items.upper[b]):
                if st.floor[s] == st.lowest[b]:
                    count[s] += 1
    best = -1
    bestkey = 1e30
    s = lo
    while s < hi:
        e = s + 1
        while e < hi and st.floor[e] == st.floor[s]:
            e += 1
        if (s == lo or st.floor[s - 1] > st.floor[s]) and (e == hi or st.floor[e] > st.floor[s]):
            for t in range(s, e):
                slack = capacity - st.floor[t] - st.load[t]
                key = count[t] * 1.0 + (0.5 if slack > 0 else 0.0)
                key += 0.25 * st.floor[t] / capacity
                if key < bestkey:
                    bestkey = key
                    best = t
        s = e
    return best


@njit(cache=True)
def search(items, capacity, rank, node_limit, table, out):
    S = len(items.first) - 1
    n = len(items.lower)
    st = State(np.zeros(S, np.int64), np.zeros(S, np.int64), np.full(n, -1, np.int64), np.zeros(n, np.int64))
    for b in range(n):
        for s in range(items.lower[b], items.upper[b]):
            st.load[s] += items.size[b]
    for s in range(S):
        if st.load[s] > capacity:
            return FAILED, 0
    trail = np.empty((64 * (S + n) + 16, 2), np.int64)
    top = 0
    # frames
    F = 4 * n + 4 * S + 16
    f_lo = np.empty(F, np.int64)
    f_hi = np.empty(F, np.int64)
    f_cont = np.empty(F, np.int64)
    f_parent = np.empty(F, np.int64)
    f_section = np.empty(F, np.int64)
    f_waste = np.empty(F, np.int64)
    f_opt = np.empty(F, np.int64)
    f_end = np.empty(F, np.int64)
    f_start = np.empty(F, np.int64)
    f_mark = np.empty(F, np.int64)
    f_conts = np.empty(F, np.int64)
    f_hash = np.empty(F, np.uint64)
    conts = np.empty((F * 4, 4), np.int64)
    ncont = 0
    opts = np.empty(F * 64, np.int64)
    count = np.zeros(S, np.int64)
    depth = 0
    nodes = 0
    mask = np.uint64(len(table) - 1)
    lo, hi, cont, parent = 0, S, -1, -1
    while True:
        # enter [lo, hi)
        fail = False
        # skip what is done, find the first component
        b = items.first[lo]
        end = items.first[hi]
        while b < end and st.offset[b] >= 0:
            b += 1
        if b == end:
            if cont < 0:
                for i in range(n):
                    out[i] = st.offset[i]
                return FOUND, nodes
            k = cont
            lo, hi, cont, parent = conts[k, 0], conts[k, 1], conts[k, 2], conts[k, 3]
            continue
        start = items.lower[b]
        reach = items.upper[b]
        while b < end and items.lower[b] < reach:
            if st.offset[b] < 0:
                reach = max(reach, items.upper[b])
            b += 1
        if b < end:
            conts[ncont, 0], conts[ncont, 1], conts[ncont, 2], conts[ncont, 3] = reach, hi, cont, parent
            cont = ncont
            ncont += 1
        lo, hi = start, reach
        h = _hash(items, st, lo, hi)
        if table[h & mask] == h:
            fail = True
        else:
            nodes += 1
            if nodes > node_limit:
                return STOPPED, nodes
            s = _choose(items, st, capacity, lo, hi, rank, count)
            w = _waste_to(items, st, lo, hi, s)
            d = depth
            depth += 1
            f_lo[d], f_hi[d], f_cont[d], f_parent[d], f_section[d] = lo, hi, cont, parent, s
            f_waste[d] = w if w + st.load[s] <= capacity else 0
            f_start[d] = f_opt[d] = f_end[d - 1] if d else 0
            k = f_opt[d]
            for i in range(items.cover_start[s], items.cover_start[s + 1]):
                b = items.cover[i]
                if st.offset[b] < 0 and st.lowest[b] == st.floor[s]:
                    t = items.twin[b]
                    if t >= 0 and st.offset[t] < 0:
                        continue
                    j = k
                    while j > f_opt[d] and rank[opts[j - 1]] > rank[b]:
                        opts[j] = opts[j - 1]
                        j -= 1
                    opts[j] = b
                    k += 1
            f_end[d] = k
            f_mark[d] = top
            f_conts[d] = ncont
            f_hash[d] = h
            parent = d
        # advance
        if fail:
            pass
        while True:
            d = parent
            if d < 0:
                return FAILED, nodes
            top = _undo(items, st, trail, top, f_mark[d])
            depth = d + 1
            ncont = f_conts[d]
            lo, hi, cont = f_lo[d], f_hi[d], f_cont[d]
            if len(trail) - top < 4 * (S + n) + 8:
                new = np.empty((2 * len(trail), 2), np.int64)
                new[:top] = trail[:top]
                trail = new
            if f_opt[d] < f_end[d]:
                b = opts[f_opt[d]]
                f_opt[d] += 1
                top, ok = _place(items, st, capacity, lo, hi, b, trail, top)
            elif f_waste[d] > 0:
                s, w = f_section[d], f_waste[d]
                f_waste[d] = 0
                trail[top, 0] = s
                trail[top, 1] = st.floor[s]
                top += 1
                st.floor[s] = w
                top, ok = _raise(items, st, capacity, lo, hi, s, s + 1, w, trail, top)
            else:
                table[f_hash[d] & mask] = f_hash[d]
                parent = f_parent[d]
                continue
            if ok:
                parent = d
                break
