"""What names and classes say, as data: names of heads, input layers, routers and tables, and fused projections.

A new family of models is a new row here. `recognise.py` applies the rows.
"""

from dataclasses import dataclass

__all__ = [
    "ADAPTER",
    "FUSED",
    "HEAD",
    "HEAD_AT_ROOT",
    "HEAD_PERHAPS",
    "INPUT",
    "KNOWN",
    "ROUTER",
    "STATE",
    "TABLE",
    "Known",
]

# The last name of a layer that gives an output, or the name of a container whose last layer does. Only outside of
# numbered blocks.
HEAD = (
    r"(lm_?|out_|.*_)?heads?(_\w+)?|(?!pre_)(\w*_)?classif(iers?)?(_\w+)?|unembed(ding)?|embed_out|(to_)?logits?(_\w+)?|lm_loss"
    r"|scores?|(qa|sop|nsp)_outputs|(class|bbox|mask)_embed|(\w*_)?predict(or|ions?)?(_\w+)?|seq_relationship|cls"
    r"|(action|value|policy|critic|actor)_(net|fn|head|layer|out|mlp)|policy|critic|actor|decoder_pred|pred_layer|conv_out|out_conv"
    r"|output_(projection|layer|proj)|answer_layer|\w+_regressor"
)
# Names that may mean an output: the projection into a space of several modalities.
HEAD_PERHAPS = r"(text|visual|vision|image|audio|speech|embedding)_proj(ection)?(_layer)?|custom_text_proj"
# Names that mean an output only where the layer or container belongs to the model itself.
HEAD_AT_ROOT = r"output|out|outputs|out_proj|proj_out|final(_(layer|linear|conv|proj))?|fc(_out)?|last(_\w+)?|decoder"
# The place of a layer that reads the data.
INPUT = (
    r"(.*\.)?(patch_embed(ding)?s?|stem|conv_in|embedder|patch_embedder)(?P<rest>\..*)?"
    r"|conv1|proj_in|input_(proj|layer)"
)
# The last name of a layer that chooses experts, beside experts.
ROUTER = r"router|gate|gating|wg|router_\w+|classifier"
# The name of a raw parameter that is a table of rows or a token.
TABLE = (
    r"(^|_)(w?pe|pos|position|positional|cls|class|tokens?|emb|embed|embeds|embeddings?|prompt|quer(y|ies)|latents?|probe"
    r"|codebook)(_|$)"
)
# The name of a parameter, or of the module that holds it, from which an adapter of PEFT computes a weight: rotations,
# reflections, Kronecker and Hadamard products. The factors of LoRA are matrices and not among them.
ADAPTER = r"(oft|boft|hra|lokr|hada|vera|randlora|road|miss|bone|c3a)_\w+"
# The name of a raw parameter that acts entry by entry: decay rates of state spaces.
STATE = r"A_logs?|D_skip|dt_bias|decay\w*|lambd?a\w*|gamma\w*|layer_?scale\w*"

# {name of a linear layer: number of equal blocks of its rows, 0 for blocks of other sizes or an unknown order}. The
# shapes of neighbours must agree, and an example is stronger.
FUSED = {
    r"(to_|w|W)?qkv(_proj)?|c_attn|W_pack|(attn_)?in_proj|Wqkv": 3,
    r"(to_|c_)?kv(_proj)?|Wkv|key_value": 2,
    r"gate_up(_proj)?|up_gate_proj|w13|w1w3|w12|Wi|dense_h_to_4h_gate|ffn_in_fused|gate_and_up_proj": 2,
    r"query_key_value|(queries_)?keys_values|in_proj_(qkvz|ba|qkv|z|b|a)|kv_a_proj_with_mqa|kv_b_proj": 0,
    r"x_proj|projection_in": 0,
}


@dataclass(frozen=True)
class Known:
    """A fused projection whose blocks follow from its class.

    Attributes:
        parent: The class of the module that holds the layer or parameter, or one of its bases: a pattern for
            "package.Name".
        layer: A pattern for the name of the layer or parameter.
        blocks: The number of equal blocks in one repeat.
        repeats: The number of repeats, or the attribute of the parent or of its config that counts them.
        unless: An attribute of the parent, or of its config, with which the row does not hold.
        when: An attribute with which alone the row holds.
    """

    parent: str
    layer: str
    blocks: int
    repeats: str | int = 1
    unless: str = ""
    when: str = ""


_GPT2 = r".*\.(GPT2|DecisionTransformerGPT2|ImageGPT)Attention"
_TIMM = (
    r"timm\.(layers\.attention|models\.(vision_transformer|swin_transformer(_v2)?|beit|eva|xcit|cait|volo))\.\w*Att\w*"
)
# The first row that fits counts. Its blocks lie one after the other, or repeat for each head.
KNOWN = (
    Known(_GPT2, r"c_attn", 3, unless="is_cross_attention"),
    Known(_GPT2, r"c_attn", 2, when="is_cross_attention"),
    Known(r".*\.(GPTNeoX|Persimmon)\w*Attention", r"query_key_value|qkv\w*", 3, "num_attention_heads"),
    Known(r".*\.Bloom\w*Attention", r"query_key_value", 3, "num_heads"),
    Known(r".*\.GPTBigCode\w*Attention", r"c_attn", 3, "num_heads", unless="multi_query"),
    Known(r".*\.Falcon\w*Attention", r"query_key_value", 3, "num_heads", unless="multi_query"),
    Known(r".*\.CodeGen\w*Attention", r"qkv_proj", 3, 4),
    Known(r"transformers\..*\.Attention", r"c_attn", 3),
    Known(r"transformers\..*Attention\w*", r"qkv", 3),
    Known(_TIMM, r"qkv", 3),
    Known(r"transformers\..*\.(ModernBert\w*|Mpt)Attention", r"Wqkv", 3),
    Known(r".*\.(GptOss|OpenAIMoe)Experts", r"gate_up_proj", 2, "intermediate_size"),
    Known(r"transformers\..*Experts", r"gate_up_proj", 2),
    Known(r"transformers\..*(MLP|Mlp)\w*", r"gate_up_proj|Wi", 2),
)
