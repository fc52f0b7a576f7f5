"""Trial turnaround on a GPU: captured training beside plain eager and torch.compile."""
