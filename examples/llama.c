/* A Llama in C that answers the float32 questions of `llama-reference export DIR`, without a cache. In DIR:

     cc -O2 -o llama llama.c -lm
     ./llama questions/rms_norm/hard.float32.txt answers/rms_norm/hard.float32

   Without arguments it reads such pairs from standard input, a line each, and says "done" after each. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct { int rank, shape[8], size; float *at; } Tensor; /* whole numbers too: they are small */

/* the last model: fields of its configuration as words, weights by Hugging Face's names */
enum { MOST = 256 };
static char field[MOST][64], word[MOST][1024], named[MOST][128];
static Tensor weights[MOST];
static int fields, weighed;

static const char *text(const char *name) {
    for (int i = 0; i < fields; i++)
        if (!strcmp(field[i], name)) return word[i];
    return NULL;
}
static double number(const char *name) { return text(name) ? atof(text(name)) : 0; }
static const float *weight(const char *format, int layer, const char *name) {
    char full[128];
    snprintf(full, sizeof full, format, layer, name);
    for (int i = 0; i < weighed; i++)
        if (!strcmp(named[i], full)) return weights[i].at;
    return NULL;
}
static void *rooms[1 << 12]; /* everything that is taken for a request, and given back behind it */
static int taken;
static void *room(size_t bytes) {
    if (taken == sizeof rooms / sizeof *rooms) { fprintf(stderr, "too many tensors in one request\n"); exit(1); }
    return rooms[taken++] = calloc(bytes + 1, 1);
}
static Tensor zeros(int rank, const int *shape) {
    Tensor x = {.rank = rank, .size = 1};
    for (int i = 0; i < rank; i++) x.size *= x.shape[i] = shape[i];
    x.at = room(x.size * sizeof(float));
    return x;
}

/* ---- the mathematics ---- */

static Tensor rms_norm(const float *gain, Tensor x) {
    Tensor y = zeros(x.rank, x.shape);
    int D = x.shape[x.rank - 1];
    for (int row = 0; row < x.size; row += D) {
        double sum = 0;
        for (int i = 0; i < D; i++) sum += (double)x.at[row + i] * x.at[row + i];
        double scale = 1 / sqrt(sum / D + number("rms_norm_eps"));
        for (int i = 0; i < D; i++) y.at[row + i] = gain[i] * (x.at[row + i] * scale);
    }
    return y;
}

static double listed(const char *words, int i) {
    for (; i; i--) words = strchr(words, ',') + 1;
    return atof(words);
}

/* Of every pair of channels the angle from one position to the next; returns a factor on cosine and sine. */
static double frequencies(double *theta, int length) {
    const char *kind = text("rope.rope_type");
    int H = number("head_dim");
    double base = number("rope.rope_theta"), factor = number("rope.factor"), longest = number("max_position_embeddings");
    double original = number("rope.original_max_position_embeddings"), turn = 2 * acos(-1);
    if (!strcmp(kind, "dynamic"))
        base *= pow(factor * fmax(length, longest) / longest - factor + 1, H / (H - 2.));
    double first = fmax(floor(H * log(original / (32 * turn)) / (2 * log(base))), 0);
    double last = fmin(ceil(H * log(original / turn) / (2 * log(base))), H - 1);
    for (int i = 0; i < H / 2; i++) {
        theta[i] = pow(base, -2. * i / H);
        if (!strcmp(kind, "linear")) theta[i] /= factor;
        if (!strcmp(kind, "llama3")) {
            double low = number("rope.low_freq_factor"), high = number("rope.high_freq_factor");
            double kept = fmin(fmax((original * theta[i] / turn - low) / (high - low), 0), 1);
            theta[i] *= kept + (1 - kept) / factor;
        }
        if (!strcmp(kind, "yarn")) {
            double stretched = fmin(fmax((i - first) / fmax(last - first, 1e-3), 0), 1);
            theta[i] *= 1 - stretched + stretched / factor;
        }
        if (!strcmp(kind, "longrope"))
            theta[i] /= listed(text(length > original ? "rope.long_factor" : "rope.short_factor"), i);
    }
    if (!strcmp(kind, "yarn")) return 0.1 * log(factor) + 1;
    return strcmp(kind, "longrope") ? 1 : sqrt(1 + log(factor) / log(original));
}

/* x (B, heads, T, H) at positions (B, T): channels i and i + H/2 are a pair. */
static Tensor rotary(Tensor x, Tensor positions) {
    Tensor y = zeros(4, x.shape);
    int heads = x.shape[1], T = x.shape[2], H = x.shape[3], furthest = 0;
    for (int i = 0; i < positions.size; i++) furthest = fmax(furthest, positions.at[i]);
    double theta[H], factor = frequencies(theta, furthest + 1);
    for (int row = 0; row < x.size / H; row++) {
        double p = positions.at[row / (heads * T) * T + row % T];
        for (int i = 0; i < H / 2; i++) {
            double a = x.at[row * H + i], b = x.at[row * H + i + H / 2];
            double c = cos(p * theta[i]) * factor, s = sin(p * theta[i]) * factor;
            y.at[row * H + i] = a * c - b * s;
            y.at[row * H + i + H / 2] = b * c + a * s;
        }
    }
    return y;
}

static Tensor linear(int layer, const char *name, Tensor x, int out) {
    const float *w = weight("model.layers.%d.%s.weight", layer, name), *bias = weight("model.layers.%d.%s.bias", layer, name);
    int in = x.shape[x.rank - 1], shape[] = {x.shape[0], x.shape[1], out};
    Tensor y = zeros(3, shape);
    for (int row = 0; row < x.size / in; row++)
        for (int o = 0; o < out; o++) {
            float sum = 0;
            for (int i = 0; i < in; i++) sum += x.at[row * in + i] * w[o * in + i];
            y.at[row * out + o] = sum + (bias ? bias[o] : 0);
        }
    return y;
}

static Tensor heads(Tensor x, int N) { /* (B, T, N H) -> (B, N, T, H), or the other way where N is 0 */
    int B = x.shape[0], T = N ? x.shape[1] : x.shape[2], H = N ? x.shape[2] / N : x.shape[3], n = N ? N : x.shape[1];
    Tensor y = zeros(N ? 4 : 3, N ? (int[]){B, n, T, H} : (int[]){B, T, n * H});
    for (int b = 0; b < B; b++)
        for (int h = 0; h < n; h++)
            for (int t = 0; t < T; t++)
                for (int i = 0; i < H; i++) {
                    int one = ((b * T + t) * n + h) * H + i, other = ((b * n + h) * T + t) * H + i;
                    y.at[N ? other : one] = x.at[N ? one : other];
                }
    return y;
}

static Tensor attention(int layer, Tensor x, Tensor positions, Tensor mask) {
    int N = number("num_attention_heads"), G = number("num_key_value_heads"), H = number("head_dim"), T = x.shape[1];
    Tensor q = rotary(heads(linear(layer, "self_attn.q_proj", x, N * H), N), positions);
    Tensor k = rotary(heads(linear(layer, "self_attn.k_proj", x, G * H), G), positions);
    Tensor v = heads(linear(layer, "self_attn.v_proj", x, G * H), G), read = zeros(4, q.shape);
    for (int row = 0; row < q.size / H; row++) { /* a head of a token */
        int b = row / (N * T), t = row % T, from = (b * G + row / T % N / (N / G)) * T;
        float p[T], highest = -INFINITY, sum = 0;
        for (int s = 0; s <= t; s++) {
            p[s] = 0;
            for (int i = 0; i < H; i++) p[s] += q.at[row * H + i] * k.at[(from + s) * H + i];
            p[s] = mask.size && !mask.at[b * T + s] ? -INFINITY : p[s] / sqrt(H);
            highest = fmaxf(highest, p[s]);
        }
        for (int s = 0; s <= t; s++) sum += p[s] = highest == -INFINITY ? 0 : expf(p[s] - highest);
        for (int s = 0; s <= t; s++)
            for (int i = 0; i < H && sum; i++) read.at[row * H + i] += p[s] / sum * v.at[(from + s) * H + i];
    }
    return linear(layer, "self_attn.o_proj", heads(read, 0), number("hidden_size"));
}

static float phi(float z) {
    const char *act = text("hidden_act");
    if (!strcmp(act, "silu")) return z / (1 + expf(-z));
    if (!strcmp(act, "gelu")) return z * erfc(-z / sqrt(2)) / 2;
    if (!strcmp(act, "relu")) return fmaxf(z, 0);
    return z / 2 * (1 + tanh(sqrt(2 / acos(-1)) * (z + 0.044715 * z * z * z)));
}

static Tensor swiglu(int layer, Tensor x) {
    int F = number("intermediate_size");
    Tensor gate = linear(layer, "mlp.gate_proj", x, F), up = linear(layer, "mlp.up_proj", x, F);
    for (int i = 0; i < gate.size; i++) gate.at[i] = phi(gate.at[i]) * up.at[i];
    return linear(layer, "mlp.down_proj", gate, number("hidden_size"));
}

static Tensor add(Tensor x, Tensor y) {
    for (int i = 0; i < x.size; i++) y.at[i] += x.at[i];
    return y;
}

static Tensor block(int layer, Tensor x, Tensor positions, Tensor mask) {
    Tensor y = rms_norm(weight("model.layers.%d.%s.weight", layer, "input_layernorm"), x);
    x = add(x, attention(layer, y, positions, mask));
    y = rms_norm(weight("model.layers.%d.%s.weight", layer, "post_attention_layernorm"), x);
    return add(x, swiglu(layer, y));
}

static Tensor llama(Tensor tokens, Tensor positions, Tensor mask) {
    int D = number("hidden_size"), V = number("vocab_size"), shape[] = {tokens.shape[0], tokens.shape[1], D};
    const float *embedding = weight("model.embed_tokens.weight", 0, ""), *head = weight("lm_head.weight", 0, "");
    Tensor x = zeros(3, shape), y = zeros(3, (int[]){shape[0], shape[1], V});
    for (int i = 0; i < x.size; i++) x.at[i] = embedding[(int)tokens.at[i / D] * D + i % D];
    for (int layer = 0; layer < number("num_hidden_layers"); layer++) x = block(layer, x, positions, mask);
    x = rms_norm(weight("model.norm.weight", 0, ""), x);
    for (int i = 0; i < y.size; i++)
        for (int d = 0; d < D; d++) y.at[i] += x.at[i / V * D + d] * (head ? head : embedding)[i % V * D + d];
    return y;
}

/* ---- the questions: lines of words ---- */

static Tensor load(const char *path) { /* a .npy of float32 or int64 */
    Tensor x = {0};
    unsigned char start[10];
    char header[65536] = "";
    FILE *file = fopen(path, "rb");
    if (!file || fread(start, 1, 10, file) != 10) { fprintf(stderr, "%s: cannot be read\n", path); exit(1); }
    int length = start[8] + 256 * start[9];
    if (fread(header, 1, length, file) != (size_t)length) exit(1);
    x.size = 1;
    for (char *at = strchr(strstr(header, "'shape'"), '(') + 1; *at && *at != ')'; at += strcspn(at, "0123456789)"))
        if (*at >= '0' && *at <= '9') x.size *= x.shape[x.rank++] = strtol(at, &at, 10);
    x.at = room(x.size * sizeof(float));
    if (strstr(header, "<f4")) {
        if (fread(x.at, 4, x.size, file) != (size_t)x.size) exit(1);
    } else {
        int64_t one;
        for (int i = 0; i < x.size && fread(&one, 8, 1, file) == 1; i++) x.at[i] = one;
    }
    fclose(file);
    return x;
}

static void save(const char *folder, const char *name, Tensor x) {
    char path[4096], header[118], shape[64] = "";
    if (!name) return;
    for (int i = 0; i < x.rank; i++) sprintf(shape + strlen(shape), "%d, ", x.shape[i]);
    sprintf(header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (char *at = path + 1; (at = strchr(at, '/')); *at++ = '/') *at = 0, mkdir(path, 0777);
    FILE *file = fopen(path, "wb");
    if (!file) { fprintf(stderr, "%s: cannot be written\n", path); exit(1); }
    fprintf(file, "\x93NUMPY\x01%c\x76%c%-117s\n", 0, 0, header);
    fwrite(x.at, 4, x.size, file);
    fclose(file);
}

static char *words[64];
static const char *given(const char *name) { /* of name=value the value; none is NULL */
    size_t length = strlen(name);
    for (int i = 0; words[i]; i++)
        if (!strncmp(words[i], name, length) && words[i][length] == '=')
            return strcmp(words[i] + length + 1, "none") ? words[i] + length + 1 : NULL;
    return NULL;
}
static Tensor tensor(const char *name) { return given(name) ? load(given(name)) : (Tensor){0}; }

static void call(const char *name, const char *folder) {
    int layer = given("layer") ? atoi(given("layer")) : 0;
    const char *to = given("answer");
    if (given("cache")) return; /* there is none here: what is not answered is not judged */
    if (!strcmp(name, "rms_norm")) {
        save(folder, to, rms_norm(weight("%.0d%s.weight", 0, given("where")), tensor("x")));
    } else if (!strcmp(name, "rotary")) {
        save(folder, given("answer_q"), rotary(tensor("q"), tensor("positions")));
        save(folder, given("answer_k"), rotary(tensor("k"), tensor("positions")));
    } else if (!strcmp(name, "swiglu")) {
        save(folder, to, swiglu(layer, tensor("x")));
    } else if (!strcmp(name, "attention")) {
        save(folder, to, attention(layer, tensor("x"), tensor("positions"), tensor("mask")));
    } else if (!strcmp(name, "block")) {
        save(folder, to, block(layer, tensor("x"), tensor("positions"), tensor("mask")));
    } else if (!strcmp(name, "llama")) {
        save(folder, to, llama(tensor("tokens"), tensor("positions"), tensor("mask")));
    }
}

static void answer(const char *request, const char *folder) {
    static char line[65536];
    int is_ours = 0;
    FILE *file = fopen(request, "r");
    if (!file) { fprintf(stderr, "%s: cannot be read\n", request); exit(1); }
    while (fgets(line, sizeof line, file)) {
        int n = 0;
        for (char *at = strtok(line, " \n"); at && n < 63; at = strtok(NULL, " \n")) words[n++] = at;
        words[n] = NULL;
        if (!strcmp(words[0], "model")) {
            fields = weighed = 0;
            is_ours = !strcmp(words[1], "float32");
        } else if (!strcmp(words[0], "config")) {
            strcpy(field[fields], words[1]), strcpy(word[fields++], words[2]);
        } else if (!strcmp(words[0], "weight")) {
            strcpy(named[weighed], words[1]), weights[weighed++] = load(words[2]);
        } else if (!strcmp(words[0], "call") && is_ours) {
            call(words[1], folder);
        }
    }
    fclose(file);
    while (taken) free(rooms[--taken]);
}

int main(int count, char **arguments) {
    char request[4096], folder[4096];
    if (count == 3) answer(arguments[1], arguments[2]);
    while (count < 3 && scanf("%4095s %4095s", request, folder) == 2) answer(request, folder), puts("done"), fflush(stdout);
}
