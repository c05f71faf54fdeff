"""The stages: typed artifacts in, one typed artifact out. No stage knows the store or another stage."""
