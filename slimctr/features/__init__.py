"""Raw values to row ids: schema, vocabulary, encoder."""
