// Latents of seeds, the same numbers as numpy's RandomState(seed).randn: the Mersenne Twister, then pairs of normal
// numbers by Marsaglia's polar method. Without imports, so that tests run it in Node.js too.

const STATE = 624;
const MIDDLE = 397;
export const LARGEST_SEED = 2 ** 32 - 1;

/** The Mersenne Twister MT19937 (Matsumoto and Nishimura 1998), seeded with one 32-bit number. */
class MersenneTwister {
  constructor(seed) {
    this.state = new Uint32Array(STATE);
    this.state[0] = seed;
    for (let index = 1; index < STATE; index++) {
      const before = this.state[index - 1] ^ (this.state[index - 1] >>> 30);
      this.state[index] = Math.imul(before, 1812433253) + index;
    }
    this.next = STATE;
  }

  /** Replaces all words of the state by the next ones. */
  advance() {
    const state = this.state;
    for (let index = 0; index < STATE; index++) {
      const mixed = (state[index] & 0x80000000) | (state[(index + 1) % STATE] & 0x7fffffff);
      state[index] = state[(index + MIDDLE) % STATE] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  /** Returns the next 32 random bits. */
  bits() {
    if (this.next === STATE) this.advance();
    let word = this.state[this.next++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  /** Returns a random number in [0, 1) with 53 bits. */
  uniform() {
    const high = this.bits() >>> 5;
    return (high * 2 ** 26 + (this.bits() >>> 6)) / 2 ** 53;
  }
}

/** Returns the latent of a seed (0 to LARGEST_SEED): `size` standard normal numbers as a Float32Array. */
export function latentOf(seed, size) {
  const random = new MersenneTwister(seed);
  const latent = new Float32Array(size);
  for (let index = 0; index < size; index += 2) {
    let x, y, square;
    do {
      x = 2 * random.uniform() - 1;
      y = 2 * random.uniform() - 1;
      square = x * x + y * y;
    } while (square >= 1 || square === 0);
    const scale = Math.sqrt((-2 * Math.log(square)) / square);
    latent[index] = scale * y;
    if (index + 1 < size) latent[index + 1] = scale * x;
  }
  return latent;
}

/** Returns the latent on the arc from one latent to another; `share` is 0 at the first and 1 at the second. */
export function between(first, second, share) {
  const length = (latent) => Math.hypot(...latent);
  const dot = first.reduce((sum, value, index) => sum + value * second[index], 0);
  const angle = Math.acos(Math.min(1, Math.max(-1, dot / (length(first) * length(second)))));
  const sine = Math.sin(angle);
  if (sine < 1e-6) return share < 0.5 ? first : second;
  const [a, b] = [Math.sin((1 - share) * angle) / sine, Math.sin(share * angle) / sine];
  return first.map((value, index) => a * value + b * second[index]);
}
