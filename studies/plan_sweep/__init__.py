"""A sweep of `plan` over the model classes of transformers and timm, against heads that are known otherwise."""
