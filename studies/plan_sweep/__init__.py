"""A sweep of `plan` over the model classes of transformers and timm, against heads known from another source."""
