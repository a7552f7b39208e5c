"""Numbers that the paper, its code and its users print, and that `studies.polar_express` compares with."""

from __future__ import annotations

__all__ = ["CANS", "CUBIC_ERRORS", "CUSHION", "ERRORS", "GPT_LOSSES", "SPEEDRUN", "TABLE"]

Row = tuple[float, float, float]

# Polar Express, arXiv 2505.16932, Implementation 1, before the division by 1.01, 1.01^3, 1.01^5.
TABLE: tuple[Row, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
CUSHION = 0.02407327424182761  # of the code that made the table

# arXiv 2506.10935 (CANS), quintics as shipped in NVIDIA's Emerging-Optimizers.
CANS: tuple[Row, ...] = (
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
    (2.2737, -1.6447, 0.4162),
)

# KellerJordan/modded-nanogpt and Dion, "num_iters=5, safety_factor=2e-2, cushion=2".
SPEEDRUN: tuple[Row, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)

# 1 - l_{T+1} for degree 5 without cushion, by l and T = 1, 2, ...; recomputed in high precision by the specification.
ERRORS: dict[float, tuple[float, ...]] = {
    1e-3: (0.99153, 0.96457, 0.85977, 0.54589, 0.11345, 9.165e-4, 4.81e-10),
    1e-2: (0.91909, 0.70720, 0.26944, 0.012528, 1.229e-6),
    0.1: (0.45342, 0.062675, 1.541e-4, 2.29e-12),
    0.5: (0.024047, 8.69e-6),
}
# The same for degree 3 and l = 1e-3.
CUBIC_ERRORS = (0.99482, 0.98661, 0.96571, 0.91403, 0.79561, 0.56815, 0.26505, 0.053729, 2.167e-3, 3.52e-6, 9.3e-12)

# Validation losses of GPT-2 on FineWeb: AdamW, Jordan, You, Polar Express; None was not printed.
GPT_LOSSES: dict[str, tuple[float | None, float, float, float]] = {
    "Small, 1B tokens": (4.197, 3.639, 3.629, 3.588),
    "Large, 1B tokens": (4.172, 3.398, 3.399, 3.340),
    "Small, 1B tokens, decay .1": (None, 3.638, 3.641, 3.587),
    "Large, 1B tokens, decay .1": (None, 3.401, 3.390, 3.344),
    "Small, 10B tokens": (3.370, 3.233, 3.234, 3.231),
    "Large, 10B tokens, decay .1": (None, 2.921, 2.919, 2.913),
}
