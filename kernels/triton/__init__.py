"""The backend in Triton; only this folder imports Triton."""
