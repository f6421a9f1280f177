"""Hidden states that another program read, vLLM's extractor or vllm-lens: their files, and whether they hold.

from src.models import load_states, verify_states
"""
