"""Many fits, one table: seeds, ledger, ablation, named variants."""
