/* The operators of an int8 network in plain C99, for any processor with 32-bit integers.
 *
 * Values are int8 maps (channels, rows, columns) in one arena. A real number is
 * scale * (q - zero). Nothing is allocated, and nothing but <stdint.h> is included. */

static int32_t limited(int32_t value, int32_t low, int32_t high)
{
    return value < low ? low : value > high ? high : value;
}

static int32_t scaled(int32_t value, int32_t multiplier, int32_t shift)
{
    const int64_t half = (int64_t)1 << (shift - 1);
    return (int32_t)(((int64_t)value * multiplier + half) >> shift);
}

static int8_t written(const step_t *s, int32_t value)
{
    const int8_t q = (int8_t)limited(value + s->zero_out, s->low, s->high);
    return s->table ? s->table[q + 128] : q;
}

/* The taps of a window along one axis that meet the map: from first up to, without, last. */
static void taps(int32_t place, int32_t size, int32_t dilation, int32_t side, int32_t *first,
                 int32_t *last)
{
    *first = place < 0 ? (-place + dilation - 1) / dilation : 0;
    *last = place >= side ? 0 : (side - place + dilation - 1) / dilation;
    if (*last > size)
        *last = size;
}

static void convolution(const step_t *s, const int8_t *x, int8_t *y)
{
    const int32_t c_in = s->c_in / s->groups, per_group = s->c_out / s->groups;
    for (int32_t c = 0; c < s->c_out; c++) {
        const int8_t *maps = x + (int32_t)(c / per_group) * c_in * s->h_in * s->w_in;
        const int8_t *weights = s->weights + c * c_in * s->size_h * s->size_w;
        for (int32_t i = 0; i < s->h_out; i++) {
            const int32_t row = i * s->stride_h - s->start_h;
            int32_t r0, r1;
            taps(row, s->size_h, s->dilation_h, s->h_in, &r0, &r1);
            for (int32_t j = 0; j < s->w_out; j++) {
                const int32_t column = j * s->stride_w - s->start_w;
                int32_t k0, k1, sum = s->bias[c];
                taps(column, s->size_w, s->dilation_w, s->w_in, &k0, &k1);
                for (int32_t d = 0; d < c_in; d++)
                    for (int32_t r = r0; r < r1; r++) {
                        const int8_t *line =
                            maps + (d * s->h_in + row + r * s->dilation_h) * s->w_in + column;
                        const int8_t *w = weights + (d * s->size_h + r) * s->size_w;
                        for (int32_t k = k0; k < k1; k++)
                            sum += (line[k * s->dilation_w] - s->zero_in) * w[k];
                    }
                *y++ = written(s, scaled(sum, s->multipliers[c], s->shifts[c]));
            }
        }
    }
}

static void pool(const step_t *s, const int8_t *x, int8_t *y)
{
    for (int32_t c = 0; c < s->c_out; c++, x += s->h_in * s->w_in)
        for (int32_t i = 0; i < s->h_out; i++) {
            const int32_t row = i * s->stride_h - s->start_h;
            int32_t r0, r1;
            taps(row, s->size_h, 1, s->h_in, &r0, &r1);
            for (int32_t j = 0; j < s->w_out; j++) {
                const int32_t column = j * s->stride_w - s->start_w;
                int32_t k0, k1, sum = 0, most = -128;
                taps(column, s->size_w, 1, s->w_in, &k0, &k1);
                for (int32_t r = r0; r < r1; r++)
                    for (int32_t k = k0; k < k1; k++) {
                        const int32_t q = x[(row + r) * s->w_in + column + k];
                        sum += q;
                        most = q > most ? q : most;
                    }
                if (s->kind == AVG_POOL) {
                    const int32_t count = (r1 - r0) * (k1 - k0);
                    most = sum >= 0 ? (sum + count / 2) / count : -((count / 2 - sum) / count);
                }
                *y++ = (int8_t)limited(most, s->low, s->high);
            }
        }
}

/* A sum or a product, of which the second factor may be one number for each channel. */
static void pairwise(const step_t *s, const int8_t *a, const int8_t *b, int8_t *y)
{
    const int32_t area = s->h_out * s->w_out;
    for (int32_t k = 0; k < s->c_out * area; k++) {
        const int32_t p = a[k] - s->zero_in, q = b[s->by_channel ? k / area : k] - s->zero_second;
        const int64_t sum = s->kind == ADD
                                ? (int64_t)p * s->multipliers[0] + (int64_t)q * s->multipliers[1]
                                : (int64_t)p * q * s->multipliers[0];
        y[k] = written(s, (int32_t)((sum + ((int64_t)1 << (FRACTION - 1))) >> FRACTION));
    }
}

/* An activation alone, or a part of a concatenation. */
static void map(const step_t *s, const int8_t *x, int8_t *y)
{
    for (int32_t k = 0; k < s->c_in * s->h_in * s->w_in; k++)
        y[k] = s->table ? s->table[x[k] + 128] : x[k];
}

static void run_steps(const step_t *s, int32_t count, int8_t *arena)
{
    for (; count > 0; count--, s++) {
        const int8_t *x = arena + s->in;
        int8_t *y = arena + s->out;
        if (s->kind == CONV)
            convolution(s, x, y);
        else if (s->kind == MAX_POOL || s->kind == AVG_POOL)
            pool(s, x, y);
        else if (s->kind == MAP)
            map(s, x, y);
        else
            pairwise(s, x, arena + s->second, y);
    }
}
