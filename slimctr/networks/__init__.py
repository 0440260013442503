"""CTR backbones in torch, embedding tables and layers."""
