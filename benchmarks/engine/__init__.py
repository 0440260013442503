"""Times the engine: compressed variants beside torch and the original, packed lookup beside other libraries."""
