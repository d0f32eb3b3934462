"""Text-based person retrieval with CFFA on the Hugging Face stack."""

__version__ = "0.1.0"
