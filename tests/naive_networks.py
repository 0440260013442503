"""Every interaction and backbone as a loop over plain floats, written from the published formula."""

import math
from itertools import combinations


def product(weight, x):
    """Weight (out, in) times a vector."""
    return [sum(w * v for w, v in zip(row, x, strict=True)) for row in weight.tolist()]


def plus(*vectors):
    return [sum(values) for values in zip(*vectors, strict=True)]


def times(*vectors):
    return [math.prod(values) for values in zip(*vectors, strict=True)]


def relu(x):
    return [max(v, 0.0) for v in x]


def flat(row):
    return [value for vector in row for value in vector]


def linear(module, x):
    return plus(product(module.weight, x), module.bias.tolist())


def bi_interaction(row):
    return plus(*(times(a, b) for a, b in combinations(row, 2)))


def fm(row):
    return sum(bi_interaction(row))


def inner_products(module, row):
    return [sum(times(a, b)) for a, b in combinations(row, 2)]


def cross_v1(module, x0):
    x = list(x0)
    for weight, bias in zip(module.weights, module.biases, strict=True):
        scalar = product(weight, x)[0]
        x = plus([v * scalar for v in x0], bias.tolist(), x)
    return x


def cross_v2(module, x0):
    x = list(x0)
    for layer in module.maps:
        x = plus(times(x0, linear(layer, x)), x)
    return x


def gated_cross(module, x0):
    x = list(x0)
    for layer, gate in zip(module.maps, module.gates, strict=True):
        gates = [1 / (1 + math.exp(-v)) for v in product(gate.weight, x)]
        x = plus(times(x0, linear(layer, x), gates), x)
    return x


def attention(module, row):
    """The row of one layer: per head and field a weighted mean of values, then residual and ReLU."""
    queries, keys, values, residuals = (
        [product(part.weight, e) for e in row]
        for part in (module.query, module.key, module.value, module.residual)
    )
    width = len(queries[0]) // module.heads
    output = []
    for query, residual in zip(queries, residuals, strict=True):
        mixed = []
        for head in range(module.heads):
            own = slice(head * width, (head + 1) * width)
            weights = [math.exp(sum(times(query[own], key[own]))) for key in keys]
            mixed += plus(
                *(
                    [w / sum(weights) * v for v in value[own]]
                    for w, value in zip(weights, values, strict=True)
                )
            )
        output.append(relu(plus(mixed, residual)))
    return output


def senet(module, row):
    means = [sum(e) / len(e) for e in row]
    weights = relu(product(module.excite.weight, relu(product(module.squeeze.weight, means))))
    return [[weight * v for v in e] for weight, e in zip(weights, row, strict=True)]


def bilinear_pairs(module, row):
    pairs = zip(module.weight, combinations(row, 2), strict=True)
    return flat([times(product(weight.T, a), b) for weight, (a, b) in pairs])


def cin(module, row):
    maps, sums = row, []
    for layer in module.maps:
        products = [times(a, b) for a in maps for b in row]
        maps = [
            relu(plus(*([w * v for v in p] for w, p in zip(weights, products, strict=True))))
            for weights in layer.weight.tolist()
        ]
        sums += [sum(values) for values in maps]
    return sums


def mlp(module, x):
    for block in module.blocks:
        norm = block.norm
        deviations = [math.sqrt(v + norm.eps) for v in norm.running_var.tolist()]
        centered = [
            v - mean for v, mean in zip(linear(block.linear, x), norm.running_mean.tolist(), strict=True)
        ]
        scaled = [v / deviation for v, deviation in zip(centered, deviations, strict=True)]
        x = relu(plus(times(scaled, norm.weight.tolist()), norm.bias.tolist()))
    return x


def autoint(backbone, row):
    attended = row
    for layer in backbone.attention:
        attended = attention(layer, attended)
    return flat(attended) + mlp(backbone.mlp, flat(row))


def fibinet(backbone, row):
    weighted = senet(backbone.senet, row)
    return mlp(
        backbone.mlp,
        bilinear_pairs(backbone.raw_pairs, row) + bilinear_pairs(backbone.weighted_pairs, weighted),
    )


# What the head of each network reads, in its order.
HIDDEN = {
    "dnn": lambda net, row: mlp(net.mlp, flat(row)),
    "deepfm": lambda net, row: mlp(net.mlp, flat(row)),
    "dcn": lambda net, row: cross_v1(net.cross, flat(row)) + mlp(net.mlp, flat(row)),
    "dcnv2": lambda net, row: cross_v2(net.cross, flat(row)) + mlp(net.mlp, flat(row)),
    "gdcn": lambda net, row: gated_cross(net.cross, flat(row)) + mlp(net.mlp, flat(row)),
    "ipnn": lambda net, row: mlp(net.mlp, flat(row) + inner_products(net.products, row)),
    "autoint": autoint,
    "nfm": lambda net, row: mlp(net.mlp, bi_interaction(row)),
    "fibinet": fibinet,
    "xdeepfm": lambda net, row: cin(net.cin, row) + mlp(net.mlp, flat(row)),
}
WIDE = {"deepfm", "nfm", "fibinet", "xdeepfm"}


def logit(network, backbone, row, wide):
    """Logit of one row (F, D) with first-order weights (F,), which networks without a wide part ignore."""
    total = linear(backbone.head, HIDDEN[network](backbone, row))[0]
    if network == "deepfm":
        total += fm(row)
    return total + (sum(wide) if network in WIDE else 0.0)
