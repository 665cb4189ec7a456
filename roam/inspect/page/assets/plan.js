// A planned graph, read from the columns that columns.py writes.

const IS = { copy: 1, mayRunAgain: 2, fold: 4, out: 8, back: 16, starts: 32, waits: 64 };
const KEPT = new Set(["output", "gradient", "tangent"]); // the user holds them to the end
const SCRATCH = "scratch",
  FRAGMENTATION = "fragmentation"; // kinds of rows that are no buffers
const TICKS_A_SECOND = 1e7;

function summed(differences) {
  let sum = 0;
  return Float64Array.from(differences, (d) => (sum += d)); // bytes go beyond 32 bits
}

/** Undoes columns.py's `_lists`; returns a function from an index to that list. */
function listsOf([lengths, flat]) {
  const ends = summed(lengths);
  return (i) => flat.slice(i ? ends[i - 1] : 0, ends[i]);
}

class Plan {
  constructor(columns, kinds) {
    const { ops, buffers } = columns;
    Object.assign(this, columns);
    this.kinds = kinds;
    this.n = ops.name.length;
    this.held = summed(columns.held);
    this.live = summed(columns.live);
    this.begin = columns.begin && summed(columns.begin).map((tick) => tick / TICKS_A_SECOND);
    this.lower = summed(buffers.lower);
    this.upper = this.lower.map((t, b) => t + buffers.life[b]);
    this.until = Float64Array.from(buffers.until, (d, b) => this.lower[b] + d);
    this.slot = summed(buffers.slot);
    this.inStep = buffers.until.length; // buffers before this index are the step's, not the user's
    const uses = listsOf(buffers.uses),
      before = listsOf(ops.before);
    this.offersOf = listsOf(buffers.offers);
    this.uses = buffers.name.map((_, b) => Array.from(summed(uses(b))));
    this.before = ops.name.map((_, t) => before(t).map((d) => t - d));
    this.after = ops.name.map(() => []);
    this.before.forEach((list, t) => list.forEach((p) => this.after[p].push(t)));
    this.touches = ops.name.map(() => ({ reads: [], makes: [] }));
    this.uses.forEach((list, b) => list.forEach((t) => this.touches[t].reads.push(b)));
    buffers.made.forEach((t, b) => t >= 0 && this.touches[t].makes.push(b));
    this.worst = this.held.indexOf(this.held.reduce((a, b) => Math.max(a, b), 0));
  }

  kind(b) {
    return this.kinds[this.buffers.kind[b]];
  }
  module(b) {
    return this.modules[this.buffers.module[b]];
  }
  form(b) {
    return this.buffers.forms[this.buffers.form[b]];
  } // dtype and shape, "" if unknown
  offers(b) {
    return Array.from(this.offersOf(b), (i) => this.buffers.sentences[i]);
  } // what options would do to it
  calls(t) {
    return this.ops.kernels[this.ops.calls[t]];
  } // operators of a fused kernel
  line(t) {
    return this.ops.lines[this.ops.line[t]];
  } // of the user's code
  opModule(t) {
    return this.modules[this.ops.module[t]];
  }
  is(t, what) {
    return (this.ops.is[t] & what) !== 0;
  }
  isPlaced(b) {
    return this.placed(this.slot[b]);
  }
  placed(slot) {
    return this.buffers.placed[slot] === 1;
  }
  address(b) {
    return this.buffers.address[this.slot[b]];
  }
  /** Where a buffer is drawn: at its address, or above the arena. */
  height(b) {
    return this.address(b) + (this.isPlaced(b) ? 0 : this.arena);
  }
  maker(b) {
    return this.buffers.made[b] < 0 ? "" : this.opTitle(this.buffers.made[b]);
  }
  /** The name of an op, with the operators of a fused kernel, whose name says nothing. */
  opTitle(t) {
    return this.calls(t) ? `${this.ops.name[t]}: ${this.calls(t)}` : this.ops.name[t];
  }
  phase(t) {
    return this.phases.filter((start) => start <= t).length;
  }

  /** All rows of a moment: buffers, the op's scratch space, and unused room in blocks. */
  moment(t) {
    const rows = [];
    let placed = 0;
    for (let b = 0; b < this.inStep; b++) {
      if (this.lower[b] <= t && t < this.until[b]) {
        rows.push(this.row(b));
        if (this.isPlaced(b)) placed += this.buffers.size[b];
      }
    }
    const blocks = this.blocks.filter(([, , lower, upper]) => lower <= t && t < upper);
    const lost = blocks.reduce((sum, [, size]) => sum + size, 0) - placed;
    const rest = { buffer: null, address: null, lower: t, upper: t + 1, maker: "" };
    const scratch = this.ops.scratch[t];
    const name = this.ops.name[t],
      module = this.opModule(t);
    if (scratch)
      rows.push({ ...rest, name, kind: SCRATCH, module, size: scratch, maker: this.opTitle(t) });
    if (lost)
      rows.push({ ...rest, name: FRAGMENTATION, kind: FRAGMENTATION, module: "", size: lost });
    return rows;
  }

  row(b) {
    return {
      buffer: b,
      name: this.buffers.name[b],
      kind: this.kind(b),
      module: this.module(b),
      size: this.buffers.size[b],
      address: this.isPlaced(b) ? this.address(b) : null,
      lower: this.lower[b],
      upper: this.upper[b],
      maker: this.maker(b),
    };
  }

  /** The ops that have run before op `t` in every order, or that run after it; itself included. */
  reached(t, neighbours) {
    const seen = new Set([t]),
      stack = [t];
    while (stack.length) {
      for (const next of neighbours[stack.pop()]) {
        if (!seen.has(next)) {
          seen.add(next);
          stack.push(next);
        }
      }
    }
    return seen;
  }

  around(t) {
    if (this.aroundOf?.t !== t) {
      const before = this.reached(t, this.before),
        after = this.reached(t, this.after);
      this.aroundOf = { t, before, after };
    }
    return this.aroundOf;
  }

  /**
   * Why buffer `b` is alive at `t`: the op that makes it and one that uses it, and whether they run
   * before and after `t` in every order. As `certain` of core/bounds.py, for one buffer.
   */
  why(b, t) {
    const { before, after } = this.around(t),
      phase = this.phase(t),
      made = this.buffers.made[b];
    const isBefore = made < 0 || before.has(made) || this.phase(made) < phase;
    const uses = this.uses[b];
    const isAfter = (u) => after.has(u) || this.phase(u) > phase;
    const forced = uses.find(isAfter) ?? (made === t ? t : undefined);
    const kept = KEPT.has(this.kind(b));
    return {
      made,
      isBefore,
      forced,
      kept,
      last: uses.at(-1) ?? made,
      sure: isBefore && (kept || forced !== undefined),
    };
  }

  /** The buffers that lie one after another in the place of `b`, each written over the one before. */
  chain(b) {
    const found = [];
    for (let other = 0; other < this.inStep; other++)
      if (this.slot[other] === this.slot[b]) found.push(other);
    return b < this.inStep ? found : [b];
  }

  /** Bytes alive without a set of buffers, in the same order, and where their peak is. */
  without(buffers) {
    const curve = Float64Array.from(this.live);
    for (const b of buffers) {
      // what `b` was written over is alive, too, at the op that makes `b`
      const over = b > 0 && this.slot[b - 1] === this.slot[b] && !buffers.has(b - 1);
      for (let t = this.lower[b] + over; t < this.until[b]; t++) curve[t] -= this.buffers.size[b];
    }
    const peak = curve.reduce((a, b) => Math.max(a, b), 0);
    return { curve, peak, at: curve.indexOf(peak) };
  }
}
