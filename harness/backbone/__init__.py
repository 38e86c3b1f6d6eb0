"""The backbone: the files of its checkpoint (light to import), and its model and tokenizer."""
