from llama_scratch.generate.command import main

main()
