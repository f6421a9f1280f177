"""Does a language model know when it is wrong, and did fine-tuning make that better or worse?

The rooms, from the bottom up (each imports only from the ones before it):
`errors`, `files`, `config`, `adapters`, then `tinker`, `models`, `data`, `evaluation` side by side,
then `probes`, `report`, `pipeline` and `cli`. Nothing heavy is imported until it is used.
"""

__version__ = "0.1.0"
