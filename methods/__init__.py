"""Methods: one file a fine-tuning method; `moe/` is the view of mixture-of-experts models they share."""
